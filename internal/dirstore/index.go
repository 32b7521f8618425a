package dirstore

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path"
	"sync"
	"time"

	"github.com/distsession/session"
)

const (
	// batch is how many records are read or ended at a time.
	batch = 8

	// grace is how long what seems to be of no use any more is left alone: longer
	// than any request, and than clocks differ.
	grace = time.Hour
)

// enter makes the index entry of a record that is about to be saved, unless the
// version before had the same. It lives to the Deadline, for touches move
// Expires up to it.
func (s *Store) enter(ctx context.Context, rec *session.Record, user string, deadline time.Time) error {
	if rec.User == "" || rec.Replaced || rec.User == user && rec.Deadline.UnixMilli() == deadline.UnixMilli() {
		return nil
	}
	e := entry{userHash(rec.User), recordName(rec.ID), rec.Deadline}
	if rec.Deadline.IsZero() {
		e.deadline = time.UnixMilli(maxMilli)
	}
	if !lasts(e.deadline) {
		return errors.New("a Deadline outside of 1970 to 2286")
	}
	err := s.tree.Mark(ctx, e.path())
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeParents(ctx, e.path()); err == nil {
			err = s.tree.Mark(ctx, e.path())
		}
	}
	if err != nil {
		return err
	}
	return s.tree.Sync(ctx, path.Dir(e.path()))
}

// entries returns the names of a user's records, without reading one: those
// that were saved, and maybe some that are gone. Entries of anybody whose
// Deadline is long over are removed on the way.
func (s *Store) entries(ctx context.Context, user string) ([]string, error) {
	hash := userHash(user)
	over := s.now().Add(-grace)
	var names []string
	seen := map[string]bool{}
	var dead []entry
	err := s.tree.ReadDir(ctx, folderOf(usersDir, hash), func(file string) bool {
		e, ok := parseEntry(file)
		switch {
		case !ok:
		case e.deadline.Before(over):
			dead = append(dead, e)
		case e.user == hash && !seen[e.name]: // with two Deadlines it stands there twice
			seen[e.name] = true
			names = append(names, e.name)
		}
		return true
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range dead[:min(len(dead), batch)] {
		_ = s.tree.Remove(ctx, e.path()) // or the next one, or Clean
	}
	return names, nil
}

// List implements session.Lister.
func (s *Store) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		if user == "" {
			return
		}
		names, err := s.entries(ctx, user)
		if err == nil {
			err = s.each(ctx, names, func(rec *session.Record) bool {
				return rec.User != user || yield(rec.Info(), nil)
			})
		}
		if err != nil {
			yield(session.Info{}, s.wrap("list", err))
		}
	}
}

// each calls f with the live records of these names that are no markers, until
// f returns false. It reads some at a time.
func (s *Store) each(ctx context.Context, names []string, f func(*session.Record) bool) error {
	for len(names) > 0 {
		var recs [batch]*session.Record
		n := min(len(names), batch)
		err := together(names[:n], func(i int, name string) error {
			rec, err := s.records.Load(ctx, recordDir(name))
			switch {
			case errors.Is(err, session.ErrNotFound):
				return nil
			case err == nil && recordName(rec.ID) == name && !rec.Replaced && !s.expired(rec):
				rec.Tag = newTag(rec)
				recs[i] = rec
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, rec := range recs[:n] {
			if rec != nil && !f(rec) {
				return nil
			}
		}
		names = names[n:]
	}
	return nil
}

// together calls f for all at once and returns the first error.
func together(names []string, f func(i int, name string) error) error {
	if len(names) == 1 {
		return f(0, names[0])
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = f(i, name) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// DeleteUser implements session.UserDeleter. A failure leaves some sessions, and
// the next call finds them.
func (s *Store) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" {
		return 0, nil
	}
	names, err := s.entries(ctx, user)
	if err != nil {
		return 0, s.wrap("delete user", err)
	}
	keep = recordName(keep)
	var (
		mu       sync.Mutex
		ended    int
		failures []error
	)
	// An entry stays until its Deadline or until Clean: it is written before its
	// record, so one that has none may be a sign-in under way.
	for len(names) > 0 {
		n := min(len(names), batch)
		_ = together(names[:n], func(_ int, name string) error {
			if name == keep {
				return nil
			}
			one, err := s.end(ctx, recordDir(name), s.records.Load, func(rec *session.Record) bool {
				return rec.User == user && !rec.Replaced && recordName(rec.ID) == name && !s.expired(rec)
			})
			mu.Lock()
			defer mu.Unlock()
			if one {
				ended++
			}
			if err != nil && !errors.Is(err, session.ErrNotFound) {
				failures = append(failures, err)
			}
			return nil
		})
		names = names[n:]
	}
	if len(failures) > 0 {
		return ended, s.wrap("delete user", failures[0]) // they are mostly the same
	}
	return ended, nil
}
