package casstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distsession/session"
)

// stored is a record as it stands on the server.
type stored struct {
	*session.Record
	trail session.Trail
	item  *Item
}

// tag is what Load leaves for Save.
type tag struct {
	id       string
	version  int64
	item     any // the Item's Tag
	trail    session.Trail
	user     string
	expires  time.Time // the earlier of Expires and Deadline
	deadline time.Time
}

func (r *stored) tag() *tag {
	t := &tag{
		id: r.ID, version: r.Version, item: r.item.Tag, trail: r.trail,
		user: r.User, expires: r.Expires, deadline: r.Deadline,
	}
	if !r.Deadline.IsZero() && r.Deadline.Before(r.Expires) {
		t.expires = r.Deadline
	}
	return t
}

// look reads a record, whether the user's index vouches for it or not.
// ErrNotFound if it is not there, has expired, or cannot be decoded.
func (s *Store) look(ctx context.Context, id string) (*stored, error) {
	it, err := s.place.Get(ctx, s.Key(id))
	switch {
	case errors.Is(err, ErrNone):
		return nil, session.ErrNotFound
	case err != nil:
		return nil, err
	}
	rec, trail, err := session.DecodeRecord(id, it.Value)
	switch {
	case err != nil:
		return nil, err
	case rec.Expired(s.now()):
		return nil, session.ErrNotFound
	}
	return &stored{rec, trail, it}, nil
}

// live reads a record that the user's index vouches for.
func (s *Store) live(ctx context.Context, id string) (*stored, error) {
	type answer struct {
		vouched bool
		err     error
	}
	hinted := s.hints.get(id)
	early := make(chan answer, 1)
	if hinted != "" {
		go func() {
			vouched, err := s.vouched(ctx, hinted, id)
			early <- answer{vouched, err}
		}()
	}
	r, err := s.look(ctx, id)
	if err != nil || r.User == "" || r.Replaced {
		return r, err
	}
	userKey := s.UserKey(r.User)
	if hinted == userKey {
		// A "no" may be older than the record, whose entry is written first.
		if a := <-early; a.vouched {
			return r, nil
		}
	}
	vouched, err := s.vouched(ctx, userKey, id)
	switch {
	case err != nil:
		return nil, err
	case !vouched:
		return nil, session.ErrNotFound
	}
	s.hints.put(id, userKey)
	return r, nil
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	r, err := s.live(ctx, session.ID(token))
	switch {
	case errors.Is(err, session.ErrNotFound):
		return nil, err
	case err != nil:
		return nil, s.failed("load", err)
	}
	r.Record.Tag = r.tag()
	return r.Record, nil
}

// Delete implements session.Store. The entry in the user's index stays; it
// vouches for what is not there.
func (s *Store) Delete(ctx context.Context, id string) error {
	_, err := s.place.Remove(ctx, s.Key(id))
	return s.failed("delete", err)
}

// maxTries bounds how often a change is tried again because another came first.
const maxTries = 64

var errBusy = fmt.Errorf("others came first %d times", maxTries)

// Touch implements session.Toucher. It writes the record's text with other
// times in it; a Save that loaded before finds the same Version.
func (s *Store) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	return s.failed("touch", s.touch(ctx, id, seen, expires))
}

func (s *Store) touch(ctx context.Context, id string, seen, expires time.Time) error {
	lost := false
	for range maxTries {
		r, err := s.look(ctx, id)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return session.ErrNotFound
		case err != nil:
			return err
		case r.Replaced:
			return session.ErrNotFound
		}
		if !r.Deadline.IsZero() && expires.After(r.Deadline) {
			expires = r.Deadline
		}
		text := bytes.Clone(r.item.Value) // the old one may be what is compared
		moved := move(text[session.RecordSeen:], r.Seen, seen)
		if move(text[session.RecordExpires:], r.Expires, expires) {
			r.Expires, moved = expires, true
		}
		if !moved {
			return nil
		}
		err = s.place.Put(ctx, &Item{Key: r.item.Key, Value: text, Tag: r.item.Tag}, r.Expires)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrNone):
			return session.ErrNotFound
		case !answered(err):
			if lost {
				return err
			}
			lost = true // once more: if it was done, nothing is left to move
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
