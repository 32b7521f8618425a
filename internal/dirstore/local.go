//go:build unix && !aix && !solaris

package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/distsession/session"
)

// Local is the Tree of a folder in a mounted file system. It stays inside: no
// name and no symbolic link leads out of the folder (os.Root).
//
// A system call cannot be interrupted, and on a mount whose server is gone it
// may hang for ever. So each runs in a goroutine of its own that is left behind
// when the context ends; their number is bounded, and when all are stuck the
// next call fails at once.
type Local struct {
	folder  atomic.Pointer[os.Root]
	reopen  func() (*os.Root, error)
	durable bool
	calls   *calls

	leaves leaves

	mu     sync.Mutex
	opened time.Time // when it was tried last
	closed bool
}

// LocalOptions configure a Local.
type LocalOptions struct {
	NoSync bool // do not wait until what is written is on disk
	Calls  int  // how many calls are under way at a time; 0 is 128

	// Reopen opens the folder again when what it was mounted from has gone, so
	// that a store outlives a new mount. It must make sure that it is the same
	// one, not an empty folder at which nothing is mounted. Nil: never.
	Reopen func() (*os.Root, error)
}

const defaultCalls = 128

// NewLocal returns the tree in root. Close closes root.
func NewLocal(root *os.Root, opts LocalOptions) *Local {
	n := opts.Calls
	if n <= 0 {
		n = defaultCalls
	}
	l := &Local{reopen: opts.Reopen, durable: !opts.NoSync, calls: newCalls(n)}
	l.folder.Store(root)
	return l
}

// root is the folder; it may be another one a moment later.
func (l *Local) root() *os.Root { return l.folder.Load() }

// staleTries is how often a call is made that says ESTALE.
const staleTries = 6

// run makes a call of the file system. ESTALE, of a network's, says that what a
// name stood for when the kernel last asked has gone: asked again, it says what
// is there now.
func run[T any](ctx context.Context, l *Local, f func() (T, error)) (T, error) {
	return do(ctx, l.calls, func() (v T, err error) {
		for try := range staleTries {
			v, err = f()
			switch {
			case errors.Is(err, syscall.ENOTCONN) && l.renew(): // and once more
			case errors.Is(err, syscall.ESTALE):
				time.Sleep(time.Duration(try) * time.Millisecond)
			default:
				return v, err
			}
		}
		return v, err
	})
}

// renew opens the folder again, at most once a second: ENOTCONN says that the
// program behind a mount (FUSE) has gone, and an open folder never learns of the
// mount that takes its place. It tells whether that was done.
func (l *Local) renew() bool {
	if l.reopen == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || time.Since(l.opened) < time.Second {
		return false
	}
	l.opened = time.Now()
	root, err := l.reopen()
	if err != nil {
		return false
	}
	l.leaves.clear()
	l.folder.Store(root) // calls are under way in the old one, which the garbage collector closes
	return true
}

func (l *Local) run(ctx context.Context, f func() error) error {
	_, err := run(ctx, l, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// Close closes the folder.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.leaves.clear()
	return l.root().Close()
}

const (
	dirMode  = 0o700
	fileMode = 0o600
	page     = 512 // names read at a time
)

// listing is a page of a folder, and the folder itself if there is more.
type listing struct {
	entries []fs.DirEntry
	more    *os.File
}

// ReadDir implements Tree. Symbolic links are passed over.
func (l *Local) ReadDir(ctx context.Context, dir string, each func(string) bool) error {
	var at listing
	for {
		f := at.more
		var err error
		// What is left behind, the garbage collector closes.
		at, err = run(ctx, l, func() (listing, error) { return l.list(dir, f) })
		if err != nil {
			return err
		}
		for _, e := range at.entries {
			if e.Type()&fs.ModeSymlink != 0 || each(e.Name()) {
				continue
			}
			if at.more != nil {
				at.more.Close()
			}
			return nil
		}
		if at.more == nil {
			return nil
		}
	}
}

// list reads the next page; f is nil for the first one.
func (l *Local) list(dir string, f *os.File) (listing, error) {
	if f == nil {
		if err := l.in(dir, func(r *os.Root, rest string) (err error) {
			f, err = r.OpenFile(rest, os.O_RDONLY|syscall.O_DIRECTORY, 0)
			return err
		}); err != nil {
			if errors.Is(err, syscall.ENOTDIR) {
				err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
			}
			return listing{}, err
		}
	}
	entries, err := f.ReadDir(page)
	if err == nil && len(entries) == page {
		return listing{entries, f}, nil
	}
	f.Close()
	if err == io.EOF {
		err = nil
	}
	return listing{entries: entries}, err
}

// Mkdir implements Tree.
func (l *Local) Mkdir(ctx context.Context, dir string) error {
	return l.run(ctx, func() error { return l.root().Mkdir(dir, dirMode) })
}

// Mark implements Tree: an empty file.
func (l *Local) Mark(ctx context.Context, path string) error {
	return l.run(ctx, func() error { return l.in(path, mark) })
}

func mark(r *os.Root, path string) error {
	f, err := r.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := r.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %v; want a file", path, info.Mode())
	}
	// By the file system's own clock: a time that is set would be ours.
	if f, err = r.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0); err != nil {
		return err
	}
	return f.Close()
}

// WriteFile implements Tree.
func (l *Local) WriteFile(ctx context.Context, path string, data []byte) error {
	return l.run(ctx, func() error {
		return l.in(path, func(r *os.Root, rest string) error {
			f, err := r.OpenFile(rest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
			if err != nil {
				return err
			}
			_, err = f.Write(data)
			if err == nil && l.durable {
				err = f.Sync()
			}
			return errors.Join(err, f.Close()) // a full disk may show at the end only (NFS)
		})
	})
}

// ReadFile implements Tree.
func (l *Local) ReadFile(ctx context.Context, path string, limit int) ([]byte, error) {
	return run(ctx, l, func() (data []byte, err error) {
		err = l.in(path, func(r *os.Root, rest string) error {
			data, err = read(r, rest, limit)
			return err
		})
		return data, err
	})
}

func read(r *os.Root, path string, limit int) ([]byte, error) {
	// A pipe that somebody put there must not block.
	f, err := r.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > int64(limit) {
		return nil, fmt.Errorf("%w: %s: %v, %d bytes; want a file of at most %d", session.ErrNotFound, path, info.Mode(), info.Size(), limit)
	}
	b := make([]byte, info.Size())
	n, err := io.ReadFull(f, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil // what it holds tells
	}
	return b[:n], err
}

// Rename implements Tree.
func (l *Local) Rename(ctx context.Context, from, to string) error {
	return l.run(ctx, func() error { return l.root().Rename(from, to) })
}

// Link gives a file one more name, and never replaces: fs.ErrExist.
func (l *Local) Link(ctx context.Context, from, to string) error {
	return l.run(ctx, func() error { return l.root().Link(from, to) })
}

// Remove implements Tree.
func (l *Local) Remove(ctx context.Context, path string) error {
	return l.run(ctx, func() error { return l.in(path, (*os.Root).Remove) })
}

// RemoveAll implements Tree.
func (l *Local) RemoveAll(ctx context.Context, path string) error {
	return l.run(ctx, func() error { return l.in(path, (*os.Root).RemoveAll) })
}

// Sync implements Tree.
func (l *Local) Sync(ctx context.Context, dir string) error {
	if !l.durable {
		return ctx.Err()
	}
	return l.run(ctx, func() error {
		return l.in(dir, func(r *os.Root, rest string) error {
			f, err := r.OpenFile(rest, os.O_RDONLY|syscall.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			return errors.Join(f.Sync(), f.Close())
		})
	})
}

// ModTime implements Tree.
func (l *Local) ModTime(ctx context.Context, path string) (time.Time, error) {
	return run(ctx, l, func() (at time.Time, err error) {
		err = l.in(path, func(r *os.Root, rest string) error {
			info, err := r.Lstat(rest)
			if err == nil {
				at = info.ModTime()
			}
			return err
		})
		return at, err
	})
}
