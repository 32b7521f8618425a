// Package dirstore keeps sessions in folders: what the stores on a file system
// that the nodes share and on HDFS have in common.
//
// A [Tree] is the folder; a [Protocol] is how one record is compared and set in
// it; a [Store] is the session.Store on top, with every ability. [Renaming] is
// the protocol for trees on which a directory's rename is sound, [Local] the
// tree of a mounted file system.
//
// # Layout
//
//	sessions/<ab>/<c>/<name>/…                    a record: what its Protocol keeps there
//	users/<de>/<f>/<user>.<name>.<deadline>       an entry of the index of a user's sessions
//	new/<random>                                  a record or a file that is not finished
//	old/<random>                                  a record that was ended
//
// name is the hash of a session's ID, user that of a user's name; abc and def
// are their first digits: no path is made of what a client sent, and none
// depends on the case of a letter. Whatever else lies in these folders is
// passed over.
//
// A record is finished in new, and gets its name by a rename, which one creator
// wins. It ends by a rename to old, so that no save finds it any more; what lies
// there is dead. What a crash left in either is swept when it is an hour old.
package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/distsession/session"
)

// A Protocol keeps one record in a directory of its own, and lets one of
// several writers win. Directories are named by the Store.
//
// Every error but those named means that the tree failed. Errors of a Tree pass
// through, wrapped.
type Protocol interface {
	// Load returns the record, one that has expired and a marker too, in the
	// newest state that was acknowledged before Load began. Its Tag is the
	// Protocol's own, for Update and Touch. session.ErrNotFound if there is none,
	// wrapped with the reason if it cannot be decoded.
	Load(ctx context.Context, dir string) (*session.Record, error)

	// Peek is Load, but of the record it needs only Version, Seen, Expires,
	// Deadline, Replaced and Tag: what can be told without reading the data. ID
	// is "" if it cannot.
	Peek(ctx context.Context, dir string) (*session.Record, error)

	// Create makes the directory with rec as version 1. session.ErrConflict if a
	// record stands there, also one that has expired; fs.ErrNotExist if the
	// folder above is missing.
	Create(ctx context.Context, dir string, rec *session.Record) error

	// Update replaces version rec.Version by rec; tag is that of the Load or Peek
	// that saw this version. session.ErrConflict if another version stands
	// there, session.ErrNotFound if none does. An answer of the tree that was
	// lost is told from a conflict.
	Update(ctx context.Context, dir string, rec *session.Record, tag any) error

	// Touch moves the times of rec, which Load or Peek returned. No time is
	// earlier than rec's. session.ErrConflict if the record has changed
	// meanwhile: it is looked at again.
	Touch(ctx context.Context, dir string, rec *session.Record, seen, expires time.Time) error
}

// Options configure a Store.
type Options struct {
	// Name begins every error, such as "filestore".
	Name string

	// MaxData is how many bytes of values a record may have. If 0, it is 1 MiB.
	MaxData int

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// A Store is a session.Store on a Tree. It is a Toucher, Lister, UserDeleter,
// Scanner and Cleaner.
type Store struct {
	tree    Tree
	records Protocol
	name    string
	maxData int
	now     func() time.Time
	walk    walk
	cleaner cleaner
}

const defaultMaxData = 1 << 20

// New returns a store on tree, whose records are kept by records.
func New(tree Tree, records Protocol, opts Options) *Store {
	s := &Store{tree: tree, records: records, name: opts.Name, maxData: opts.MaxData, now: opts.Now}
	if s.maxData <= 0 {
		s.maxData = defaultMaxData
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Prepare makes the folders that a Store needs in an empty tree.
func (s *Store) Prepare(ctx context.Context) error {
	for _, dir := range []string{recordsDir, usersDir, NewDir, OldDir} {
		if err := s.tree.Mkdir(ctx, dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return s.wrap("prepare", err)
		}
	}
	return s.wrap("prepare", s.tree.Sync(ctx, "."))
}

// tag is what Load leaves for Save.
type tag struct {
	version  int64
	user     string
	deadline time.Time
	expires  time.Time
	own      any // the Protocol's
}

func newTag(rec *session.Record) *tag {
	return &tag{version: rec.Version, user: rec.User, deadline: rec.Deadline, expires: rec.Expires, own: rec.Tag}
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	id := session.ID(token)
	rec, err := s.load(ctx, id)
	if err != nil {
		return nil, s.wrap("load", err)
	}
	rec.Tag = newTag(rec)
	return rec, nil
}

// load returns a live record with the Protocol's Tag.
func (s *Store) load(ctx context.Context, id string) (*session.Record, error) {
	rec, err := s.records.Load(ctx, recordDir(recordName(id)))
	switch {
	case err != nil:
		return nil, err
	case rec.ID != id:
		return nil, fmt.Errorf("%w: record %s: what lies in its place is another's", session.ErrNotFound, id)
	case rec.Expired(s.now()):
		return nil, session.ErrNotFound
	}
	return rec, nil
}

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, rec *session.Record) (string, error) {
	if len(rec.Data) > s.maxData {
		return "", fmt.Errorf("%w: %s: %d bytes of values, the limit is %d", session.ErrTooLarge, s.name, len(rec.Data), s.maxData)
	}
	save := s.update
	if rec.Version == 0 {
		save = s.create
	}
	return "", s.wrap("save", save(ctx, rec))
}

func (s *Store) create(ctx context.Context, rec *session.Record) error {
	dir := recordDir(recordName(rec.ID))
	if err := s.enter(ctx, rec, "", time.Time{}); err != nil {
		return err
	}
	// Made once where the folder above is missing, and once more where an
	// expired record had to go first.
	made := false
	for range 4 {
		err := s.records.Create(ctx, dir, rec)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !made:
			made = true
			err = s.makeParents(ctx, dir)
		case errors.Is(err, session.ErrConflict):
			var ended bool
			ended, err = s.end(ctx, dir, s.records.Peek, s.expired)
			if !ended && err == nil {
				return session.ErrConflict
			}
		default:
			return err
		}
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return err
		}
	}
	return session.ErrConflict // with others who create and end it all the time
}

func (s *Store) expired(rec *session.Record) bool { return rec.Expired(s.now()) }

func (s *Store) update(ctx context.Context, rec *session.Record) error {
	known, ok := rec.Tag.(*tag)
	if !ok || known.version != rec.Version || !s.now().Before(known.expires) {
		// Without a Tag, with a used one, or one of a record that has expired
		// unless a touch came between.
		stored, err := s.load(ctx, rec.ID)
		switch {
		case err != nil:
			return err
		case stored.Version != rec.Version:
			return session.ErrConflict
		}
		known = newTag(stored)
	}
	if err := s.enter(ctx, rec, known.user, known.deadline); err != nil {
		return err
	}
	err := s.records.Update(ctx, recordDir(recordName(rec.ID)), rec, known.own)
	if errors.Is(err, session.ErrConflict) {
		now, gone := s.records.Peek(ctx, recordDir(recordName(rec.ID)))
		if errors.Is(gone, session.ErrNotFound) || gone == nil && s.expired(now) {
			return session.ErrNotFound // what it lost against is over already
		}
	}
	return err
}

// touchRounds is how often a Touch looks at a record that changes all the time.
const touchRounds = 100

// Touch implements session.Toucher.
func (s *Store) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	dir := recordDir(recordName(id))
	for range touchRounds {
		rec, err := s.records.Peek(ctx, dir)
		switch {
		case err != nil:
			return s.wrap("touch", err)
		case rec.Replaced || rec.Expired(s.now()) || rec.ID != "" && rec.ID != id:
			return session.ErrNotFound
		}
		seen, expires := later(rec.Seen, seen), expires
		if !rec.Deadline.IsZero() && expires.After(rec.Deadline) {
			expires = rec.Deadline
		}
		expires = later(rec.Expires, expires)
		if !lasts(seen) || !lasts(expires) {
			return s.wrap("touch", fmt.Errorf("record %s: a time after 2286", id))
		}
		if seen.UnixMilli() == rec.Seen.UnixMilli() && expires.UnixMilli() == rec.Expires.UnixMilli() {
			return nil
		}
		if err := s.records.Touch(ctx, dir, rec, seen, expires); !errors.Is(err, session.ErrConflict) {
			return s.wrap("touch", err)
		}
	}
	return s.wrap("touch", fmt.Errorf("record %s changed %d times meanwhile", id, touchRounds))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Delete implements session.Store.
func (s *Store) Delete(ctx context.Context, id string) error {
	moved, err := s.moveAway(ctx, recordDir(recordName(id)))
	if err == nil && moved != "" {
		err = s.discard(ctx, moved)
	}
	return s.wrap("delete", err)
}

// wrap adds what was done to an error that is the tree's; what a caller tells
// apart stays as it is.
func (s *Store) wrap(act string, err error) error {
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrTooLarge) {
		return err
	}
	return fmt.Errorf("session: %s: %s: %w", s.name, act, err)
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ session.Cleaner     = (*Store)(nil)
)
