//go:build unix && !aix && !solaris

package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Local is the Tree of a folder in a mounted file system. It stays inside: no
// name and no symbolic link leads out of the folder (os.Root).
//
// A system call cannot be interrupted, and on a mount whose server is gone it
// may hang for ever. So each runs in a goroutine of its own that is left behind
// when the context ends; their number is bounded, and when all are stuck the
// next call fails at once.
type Local struct {
	root *os.Root
	sync bool
	*calls
}

// LocalOptions configure a Local.
type LocalOptions struct {
	NoSync bool // do not wait until what is written is on disk
	Calls  int  // how many calls are under way at a time; 0 is 128
}

const defaultCalls = 128

// NewLocal returns the tree in root. Close closes root.
func NewLocal(root *os.Root, opts LocalOptions) *Local {
	n := opts.Calls
	if n <= 0 {
		n = defaultCalls
	}
	return &Local{root: root, sync: !opts.NoSync, calls: newCalls(n)}
}

// Close closes the folder.
func (l *Local) Close() error { return l.root.Close() }

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
		at, err = do(ctx, l.calls, func() (listing, error) { return l.list(dir, f) })
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
		var err error
		if f, err = l.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0); err != nil {
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
	return l.call(ctx, func() error { return l.root.Mkdir(dir, dirMode) })
}

// Mark implements Tree: an empty file.
func (l *Local) Mark(ctx context.Context, path string) error {
	return l.call(ctx, func() error {
		f, err := l.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := l.root.Lstat(path); err != nil || !info.Mode().IsRegular() {
			return errors.Join(err, notRegular(path, info))
		}
		// By the file system's own clock: a time that is set would be ours.
		if f, err = l.root.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0); err != nil {
			return err
		}
		return f.Close()
	})
}

func notRegular(path string, info fs.FileInfo) error {
	if info == nil || info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s: %v; want a file", path, info.Mode())
}

// WriteFile implements Tree.
func (l *Local) WriteFile(ctx context.Context, path string, data []byte) error {
	return l.call(ctx, func() error {
		f, err := l.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		if err == nil && l.sync {
			err = f.Sync()
		}
		return errors.Join(err, f.Close()) // a full disk may show at the end only (NFS)
	})
}

// ReadFile implements Tree.
func (l *Local) ReadFile(ctx context.Context, path string, limit int) ([]byte, error) {
	return do(ctx, l.calls, func() ([]byte, error) {
		// A pipe that somebody put there must not block.
		f, err := l.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > int64(limit) {
			return nil, fmt.Errorf("%s: %v, %d bytes; want a file of at most %d", path, info.Mode(), info.Size(), limit)
		}
		b := make([]byte, info.Size())
		n, err := io.ReadFull(f, b)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = nil // what it holds tells
		}
		return b[:n], err
	})
}

// Rename implements Tree.
func (l *Local) Rename(ctx context.Context, from, to string) error {
	return l.call(ctx, func() error { return l.root.Rename(from, to) })
}

// Link gives a file one more name, and never replaces: fs.ErrExist.
func (l *Local) Link(ctx context.Context, from, to string) error {
	return l.call(ctx, func() error { return l.root.Link(from, to) })
}

// Remove implements Tree.
func (l *Local) Remove(ctx context.Context, path string) error {
	return l.call(ctx, func() error { return l.root.Remove(path) })
}

// RemoveAll implements Tree.
func (l *Local) RemoveAll(ctx context.Context, path string) error {
	return l.call(ctx, func() error { return l.root.RemoveAll(path) })
}

// Sync implements Tree.
func (l *Local) Sync(ctx context.Context, dir string) error {
	if !l.sync {
		return ctx.Err()
	}
	return l.call(ctx, func() error {
		f, err := l.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// ModTime implements Tree.
func (l *Local) ModTime(ctx context.Context, path string) (time.Time, error) {
	return do(ctx, l.calls, func() (time.Time, error) {
		info, err := l.root.Lstat(path)
		if err != nil {
			return time.Time{}, err
		}
		return info.ModTime(), nil
	})
}
