package casstore

import (
	"context"
	"errors"
	"time"

	"github.com/distsession/session"
)

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, rec *session.Record) (string, error) {
	if rec.Version == 0 {
		return "", s.failed("save", s.create(ctx, rec))
	}
	return "", s.failed("save", s.update(ctx, rec))
}

// attempt is one save under way. Its text holds the name of the write, so that
// it can be sent again, and recognised, when an answer was lost: the tag of
// the item that it replaces makes sure that it is done once.
type attempt struct {
	item  *Item
	end   time.Time
	trail session.Trail
	lost  bool // an answer was
}

func (s *Store) newAttempt(rec *session.Record, trail session.Trail) (*attempt, error) {
	w := &attempt{trail: trail.Next()}
	text, err := session.EncodeRecord(rec, w.trail)
	if err != nil {
		return nil, err
	}
	end := rec.Expires
	if !rec.Deadline.IsZero() && rec.Deadline.Before(end) {
		end = rec.Deadline
	}
	w.item, w.end = &Item{Key: s.Key(rec.ID), Value: text}, end
	return w, s.fits(w.item.Key, text)
}

// made tells whether this attempt made the version, or one that is up to two
// versions older than what is stored now.
func (w *attempt) made(version int64, now *session.Record, trail session.Trail) bool {
	return w.lost && trail.Has(w.trail.Write(), now.Version-version)
}

// send sends the write. An answer that was lost is none: the caller looks what
// is there and, once, goes on.
func (s *Store) send(ctx context.Context, w *attempt) (done bool, err error) {
	err = s.place.Put(ctx, w.item, w.end)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, session.ErrTooLarge), w.lost && !answered(err):
		return false, err
	case !answered(err):
		w.lost = true
	case errors.Is(err, ErrNone) && w.item.Tag != nil:
		return false, session.ErrNotFound
	}
	return false, nil
}

// create adds a record. Its entry in the user's index comes first.
func (s *Store) create(ctx context.Context, rec *session.Record) error {
	w, err := s.newAttempt(rec, session.NewTrail())
	if err != nil {
		return err
	}
	if rec.User != "" && !rec.Replaced {
		if err := s.enter(ctx, rec, true); err != nil {
			return err
		}
	}
	for range maxTries {
		done, err := s.send(ctx, w)
		if done {
			return nil
		}
		if err != nil && !errors.Is(err, session.ErrNotFound) {
			return err
		}
		old, err := s.place.Get(ctx, w.item.Key)
		switch {
		case errors.Is(err, ErrNone):
			w.item.Tag = nil
			continue
		case err != nil:
			return err
		}
		now, trail, err := session.DecodeRecord(rec.ID, old.Value)
		switch {
		case err != nil:
			return session.ErrConflict // whatever it is, it is not ours to replace
		case w.made(1, now, trail):
			return nil
		case !now.Expired(s.now()):
			return session.ErrConflict
		}
		w.item.Tag = old.Tag // the server has not noticed yet that it has expired
	}
	return errBusy
}

// update replaces exactly the version that rec is. The item's tag is only the
// way to do that: a touch changes it and not the version.
func (s *Store) update(ctx context.Context, rec *session.Record) error {
	t, ok := rec.Tag.(*tag)
	fresh := !ok || t.id != rec.ID || t.version != rec.Version || !s.now().Before(t.expires)
	if fresh {
		r, err := s.live(ctx, rec.ID)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return session.ErrNotFound
		case err != nil:
			return err
		case r.Version != rec.Version:
			return session.ErrConflict
		}
		t = r.tag()
	}
	w, err := s.newAttempt(rec, t.trail)
	if err != nil {
		return err
	}
	if err := s.admit(ctx, rec, t, fresh); err != nil {
		return err
	}
	w.item.Tag = t.item
	for range maxTries {
		done, err := s.send(ctx, w)
		if done || err != nil {
			return err
		}
		now, err := s.look(ctx, rec.ID)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return session.ErrNotFound
		case err != nil:
			return err
		case w.made(rec.Version+1, now.Record, now.trail):
			return nil
		case now.Version != rec.Version:
			return session.ErrConflict
		}
		w.item.Tag = now.item.Tag // touched, or the write never arrived
	}
	return errBusy
}

// admit sees to the user's index before an update. fresh says that the index
// has just been read.
func (s *Store) admit(ctx context.Context, rec *session.Record, t *tag, fresh bool) error {
	changed := rec.User != t.user
	if (changed || rec.Replaced) && t.user != "" && !fresh {
		// A session that DeleteUser has just ended must neither pass on to
		// another user nor be claimed for a new session that would outlive it.
		vouched, err := s.vouched(ctx, s.UserKey(t.user), rec.ID)
		switch {
		case err != nil:
			return err
		case !vouched:
			return session.ErrNotFound
		}
	}
	switch {
	case rec.User == "" || rec.Replaced:
		return nil
	case changed:
		return s.enter(ctx, rec, true)
	case entryDeadline(rec.Deadline) > entryDeadline(t.deadline):
		return s.enter(ctx, rec, false)
	}
	return nil
}
