package gridstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distsession/session"
)

// stored is a record as it stands in the grid.
type stored struct {
	*session.Record
	trail session.Trail
	text  []byte
}

// tag is what Load leaves for Save.
type tag struct {
	id       string
	version  int64
	text     []byte
	trail    session.Trail
	user     string
	deadline time.Time
	expires  time.Time // the earlier of Expires and Deadline
}

func (r *stored) tag() *tag {
	return &tag{
		id: r.ID, version: r.Version, text: r.text, trail: r.trail,
		user: r.User, deadline: r.Deadline, expires: end(r.Record),
	}
}

// end is when a record ends: the earlier of Expires and Deadline.
func end(rec *session.Record) time.Time {
	if !rec.Deadline.IsZero() && rec.Deadline.Before(rec.Expires) {
		return rec.Deadline
	}
	return rec.Expires
}

// look reads a record. ErrNotFound if it is not there, has expired, or cannot
// be decoded.
func (s *Store) look(ctx context.Context, id string) (*stored, error) {
	text, err := s.grid.Get(ctx, s.Key(id))
	switch {
	case err != nil:
		return nil, err
	case text == nil:
		return nil, session.ErrNotFound
	}
	rec, trail, err := session.DecodeRecord(id, text)
	switch {
	case err != nil:
		return nil, err
	case rec.Expired(s.now()):
		return nil, session.ErrNotFound
	}
	return &stored{rec, trail, text}, nil
}

// found is look for those who only want to know that there is none.
func (s *Store) found(ctx context.Context, id string) (*stored, error) {
	r, err := s.look(ctx, id)
	if errors.Is(err, session.ErrNotFound) {
		err = session.ErrNotFound
	}
	return r, err
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	r, err := s.look(ctx, session.ID(token))
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil, err
	case err != nil:
		return nil, s.failed("load", err)
	}
	r.Record.Tag = r.tag()
	return r.Record, nil
}

// Delete implements session.Store. The entry in the user's index stays until
// somebody finds that it names nothing.
func (s *Store) Delete(ctx context.Context, id string) error {
	_, err := s.remove(ctx, s.Key(id), nil)
	return s.failed("delete", err)
}

// remove removes an item; if the answer is lost it asks once more, for to
// remove twice is the same.
func (s *Store) remove(ctx context.Context, key string, old []byte) (bool, error) {
	was, err := s.grid.Remove(ctx, key, old)
	if err != nil && ctx.Err() == nil {
		was, err = s.grid.Remove(ctx, key, old)
	}
	return was, err
}

// Touch implements session.Toucher. It writes the record's text with other
// times in it; a Save that loaded before finds the same Version.
func (s *Store) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	return s.failed("touch", s.touch(ctx, id, seen, expires))
}

func (s *Store) touch(ctx context.Context, id string, seen, expires time.Time) error {
	var lost error
	for range maxTries {
		r, err := s.found(ctx, id)
		switch {
		case err != nil:
			return err
		case r.Replaced:
			return session.ErrNotFound
		}
		if !r.Deadline.IsZero() && expires.After(r.Deadline) {
			expires = r.Deadline
		}
		text := append([]byte(nil), r.text...)
		moved := move(text[session.RecordSeen:], r.Seen, seen)
		if move(text[session.RecordExpires:], r.Expires, expires) {
			r.Expires, moved = expires, true
		}
		if !moved {
			return nil
		}
		done, err := s.grid.Replace(ctx, s.Key(id), r.text, text, ttl(end(r.Record), s.now()))
		switch {
		case done:
			return nil
		case err != nil && lost != nil:
			return err
		case err != nil:
			lost = err // once more: if it was done, nothing is left to move
		}
	}
	return errBusy
}

// move overwrites a time where it stands, if it moves forward.
func move(field []byte, from, to time.Time) bool {
	if to.UnixMilli() <= from.UnixMilli() {
		return false
	}
	return copy(field, session.FormatMilli(to)) > 0
}

// fits tells whether a record is small enough, before anything is sent.
func (s *Store) fits(text []byte) error {
	if len(text) > s.limit {
		return fmt.Errorf("%w: the record takes %d bytes and may take %d", session.ErrTooLarge, len(text), s.limit)
	}
	return nil
}
