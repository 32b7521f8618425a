package dirstore

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"path"

	"github.com/distsession/session"
)

// moveAway moves the directory of a record to OldDir, so that nobody finds it
// any more, and returns where it lies; "" if there was none. If one moved it at
// the same time, that one has it.
func (s *Store) moveAway(ctx context.Context, dir string) (string, error) {
	moved := OldDir + "/" + rand.Text()
	err := s.tree.Rename(ctx, dir, moved)
	switch {
	case err == nil:
		return moved, s.tree.Sync(ctx, path.Dir(dir))
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	// Of several things that may be missing, it was the record; or an answer
	// that was lost came again (NFS 3), and the record is where it should be.
	if _, err := s.tree.ModTime(ctx, moved); err == nil {
		return moved, s.tree.Sync(ctx, path.Dir(dir))
	}
	if _, err := s.tree.ModTime(ctx, OldDir); err != nil {
		return "", err
	}
	return "", nil
}

// discardTries is how often a writer's last file may land in what is removed.
const discardTries = 50

// discard removes what was moved away. A node that looked for it a moment ago
// may still read it, or put a file there, until it is empty and gone: so a
// session has ended only when this has been done.
func (s *Store) discard(ctx context.Context, moved string) error {
	for try := 1; ; try++ {
		err := s.tree.RemoveAll(ctx, moved)
		if !errors.Is(err, fs.ErrExist) || try == discardTries { // ErrExist: not empty
			return missing(err)
		}
	}
}

// look is Protocol.Load or Protocol.Peek.
type look func(ctx context.Context, dir string) (*session.Record, error)

// end ends the record in dir if may says so of what look returns, and tells
// whether it did. session.ErrNotFound if there is no record.
//
// Between the look and the move another record may have taken the place: an
// expired one that was made anew, or a marker. Then what was moved goes back,
// and it was away for a moment.
func (s *Store) end(ctx context.Context, dir string, look look, may func(*session.Record) bool) (bool, error) {
	rec, err := look(ctx, dir)
	if err != nil || !may(rec) {
		return false, err
	}
	moved, err := s.moveAway(ctx, dir)
	switch {
	case err != nil:
		return false, err
	case moved == "":
		return false, session.ErrNotFound // another was faster
	}
	rec, err = look(ctx, moved)
	if err == nil && may(rec) || errors.Is(err, session.ErrNotFound) { // nothing that could be put back
		return err == nil, errors.Join(err, s.discard(ctx, moved))
	}
	// This is not given up half way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	back := s.tree.Rename(ctx, moved, dir)
	if errors.Is(back, fs.ErrExist) {
		back = nil // made anew meanwhile
	}
	return false, errors.Join(err, back, s.tree.Sync(ctx, path.Dir(dir)))
}
