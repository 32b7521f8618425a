// Package filestore keeps sessions in a folder that all nodes share: a local
// disk, GlusterFS, NFS, CephFS.
//
// # Configuration
//
// Importing the package registers the scheme "file":
//
//	session.Open(ctx, "file:///var/lib/sessions")
//
// takes these parameters:
//
//	create=true            make the folder, if it is missing, for its owner alone
//	max_data=65536         bytes of values a session may have; default 1 MiB
//	clean=1h               how often what has expired is removed; 0: never, somebody calls Clean
//	calls=128              calls of the file system under way at a time
//	insecure_no_sync=true  do not wait until writes are on disk, see Failure
//
// On a mount name a folder in it, not the mount point: while nothing is mounted
// it is missing, and Open refuses rather than begin anew on the disk below.
//
// The folder belongs to the user that the program runs as, and is writable by
// nobody else (chmod 700). Whoever can read it can read every value, and whoever
// can write it can sign in as anybody: wrap the store in session.Encrypted
// against the former. Open refuses a folder that is missing or writable by
// others, and a file system that fails a short test of what the store rests on.
//
// All nodes mount the same file system, as one user ID, and no mount may cache
// names: a node that does still finds a session that another one has ended, and
// can save it again.
//
//	GlusterFS  mount with entry-timeout=0,attribute-timeout=0,negative-timeout=0;
//	           with the default, a second, a late save after a sign-out was seen
//	           to succeed. Tested with two replicas, two mounts and no
//	           performance translators
//	NFS        mount with lookupcache=none,actimeo=0. Not run: it follows from
//	           the protocol
//	CephFS     not run
//	local      ext4 and tmpfs are tested, with many processes
//
// A Unix is needed. A store holds up to 300 folders open.
//
// A session takes a directory and a file, and a signed-in one an empty file for
// the list of its user's sessions: 3 inodes and 8 KiB on ext4, up to 3 KiB of
// values. A touch adds one empty file until the next save.
//
// # Guarantees
//
// Every save is a compare-and-set. No lock, no lease and no clock decides: a
// finished file is linked to the name of its version; link never replaces, so
// one writer wins, and no crash leaves anything held. A save whose answer was
// lost is told from a conflict by the names of the last 64 writes in the file. A
// reader sees the old version or the new one, whole. The store has every
// ability of a store. List and DeleteUser read one folder of the index, a
// 4096th of it, and that user's sessions; Scan and Clean read all.
//
// Names of folders and files are hashes, numbers and random text. Nothing is
// read or written outside of the folder, whatever links lie in it. What is in it
// and not the store's own is passed over.
//
// # Expiry
//
// A record that has expired by this process's clock is not returned. Open
// removes what has expired once an hour, and sweeps what a crash left and has
// not changed for an hour by the file system's own clock. New does not: call
// Clean, or set Options.CleanEvery.
//
// # Failure
//
// A file system that is full, read-only or failing is an error, and nothing that
// was acknowledged is lost. Every call returns when its context ends, also on a
// mount whose server is gone, where a system call may hang for ever: it is left
// behind, and once Options.Calls hang so, further calls fail at once. When the
// servers are back the store works again, also on a new mount, if the folder in
// it is the same: a file in it, "id", tells.
//
// What was acknowledged is on disk (fsync of the file, then of its directory),
// as far as the file system keeps its word. With InsecureNoSync a power cut may
// lose the last half minute's changes, sign-outs among them, and damage sessions;
// a crash of the program alone loses nothing.
//
// After a power cut or a restored backup an ended session may be there again
// only if its end was not acknowledged, or the backup is older: a folder is not
// restored without ending the sessions in it.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
)

// Options configure a Store. The zero value is safe.
type Options struct {
	// MaxData is how many bytes of values a session may have; more is
	// session.ErrTooLarge. If 0, it is 1 MiB.
	MaxData int

	// CleanEvery is how often expired sessions and what crashes left are removed
	// in the background, until Close. If 0, they are not: somebody calls Clean.
	CleanEvery time.Duration

	// Calls is how many calls of the file system may be under way at a time;
	// each holds a thread of the system. If 0, it is 128.
	Calls int

	// InsecureNoSync does not wait until what is written is on disk. A power cut
	// may then lose acknowledged changes and bring ended sessions back.
	InsecureNoSync bool

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Store keeps sessions in a folder. See the package's comment for what it
// promises. It has every ability of a session.Store: Toucher, Lister,
// UserDeleter, Scanner and Cleaner.
type Store struct {
	*records
	tree  io.Closer
	close sync.Once
}

// records has the methods, which hdfsstore shares.
type records = dirstore.Store

// cleanEvery is what Open sets.
const cleanEvery = time.Hour

func init() { session.Register("file", open) }

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	p := session.NewParams(u)
	opts := &Options{
		MaxData:        p.Int("max_data", 0),
		CleanEvery:     p.Duration("clean", cleanEvery),
		Calls:          p.Int("calls", 0),
		InsecureNoSync: p.Bool("insecure_no_sync"),
	}
	create := p.Bool("create")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if u.Host != "" || u.User != nil || u.Opaque != "" || !filepath.IsAbs(u.Path) {
		return nil, configError("the URL takes no host and an absolute path; write it as file:///var/lib/sessions")
	}
	if create {
		if err := os.Mkdir(u.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, configError("the folder cannot be made: %w", err)
		}
	}
	return New(ctx, u.Path, opts)
}

// New returns a store in the folder dir, which is there; opts may be nil. It
// tests the file system: session.ErrConfig if dir or what it lies on cannot be
// used, another error if the file system fails.
func New(ctx context.Context, dir string, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	root, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	same := &identity{dir: dir}
	tree := dirstore.NewLocal(root, dirstore.LocalOptions{NoSync: opts.InsecureNoSync, Calls: opts.Calls, Reopen: same.reopen})
	s := newStore(tree, opts)
	s.tree = tree
	err = s.Prepare(ctx)
	if err == nil {
		err = probe(ctx, tree)
	}
	if err == nil {
		err = same.learn(ctx, tree)
	}
	if err != nil {
		tree.Close()
		return nil, startError(dir, err)
	}
	if opts.CleanEvery > 0 {
		s.CleanEvery(opts.CleanEvery)
	}
	return s, nil
}

func newStore(tree linkTree, opts *Options) *Store {
	maxData := opts.MaxData
	if maxData <= 0 {
		maxData = defaultMaxData
	}
	return &Store{records: dirstore.New(tree, &linking{tree, dirstore.TextLimit(maxData)}, dirstore.Options{
		Name: "filestore", MaxData: maxData, Now: opts.Now,
	})}
}

const defaultMaxData = 1 << 20

// Close ends the cleaning in the background and closes the folder.
func (s *Store) Close() error {
	var err error
	s.close.Do(func() {
		s.StopCleaning()
		if s.tree != nil {
			err = s.tree.Close()
		}
	})
	return err
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: filestore: "+format, append([]any{session.ErrConfig}, args...)...)
}

var _ io.Closer = (*Store)(nil)
