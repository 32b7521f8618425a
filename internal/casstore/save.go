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

// attempt is one save under way. Its text holds the name of the write, by which
// it is recognised when an answer was lost.
type attempt struct {
	item  *Item
	end   time.Time
	trail session.Trail
	lost  error // instead of an answer; nil while there were answers
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

// reach is how many versions a Trail names.
var reach = int64(session.TrailLen / len(session.NewTrail().Write()))

// made tells whether this attempt made the version, or one that is up to two
// versions older than what is stored now. It is asked after a "no" too: a grid
// whose member died in between may have done what it then refuses.
//
// If an answer was lost and others came so often that the trail does not reach
// back, nobody can tell, and made returns what was lost: after a conflict the
// change would be made again, and perhaps twice.
func (w *attempt) made(version int64, now *session.Record, trail session.Trail) (bool, error) {
	if now.Version >= version+reach {
		return false, w.lost
	}
	return trail.Has(w.trail.Write(), now.Version-version), nil
}

// send sends the write. An answer that was lost is none: the caller looks what
// is there.
func (s *Store) send(ctx context.Context, w *attempt) (done bool, err error) {
	err = s.place.Put(ctx, w.item, w.end)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, session.ErrTooLarge), w.lost != nil && !answered(err):
		return false, err
	case !answered(err):
		w.lost = err
	case errors.Is(err, ErrNone) && w.item.Tag != nil:
		return false, session.ErrNotFound
	}
	return false, nil
}

// create adds a record. Its entry in the user's index comes first. An answer
// that was lost is looked for, and what is not found is not sent again: the first
// may be on its way still, and arrive after a sign-out that follows the second.
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
			if w.lost != nil {
				return w.lost
			}
			w.item.Tag = nil
			continue
		case err != nil:
			return err
		}
		now, trail, err := session.DecodeRecord(rec.ID, old.Value)
		if err != nil {
			return session.ErrConflict // whatever it is, it is not ours to replace
		}
		switch made, err := w.made(1, now, trail); {
		case made || err != nil:
			return err
		case !now.Expired(s.now()):
			return session.ErrConflict
		case w.lost != nil:
			return w.lost
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
		}
		switch made, err := w.made(rec.Version+1, now.Record, now.trail); {
		case made || err != nil:
			return err
		case now.Version != rec.Version:
			return session.ErrConflict
		}
		// Touched, or the write never arrived. It may be sent again, for it
		// replaces one item once.
		w.item.Tag = now.item.Tag
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
