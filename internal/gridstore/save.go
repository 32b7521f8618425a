package gridstore

import (
	"context"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/userindex"
)

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, rec *session.Record) (string, error) {
	if rec.Version == 0 {
		return "", s.failed("save", s.create(ctx, rec))
	}
	return "", s.failed("save", s.update(ctx, rec))
}

// attempt is one save under way. Its text holds the name of the write, by which
// it is recognised.
type attempt struct {
	key, id string
	text    []byte
	ttl     time.Duration
	trail   session.Trail
}

func (s *Store) newAttempt(rec *session.Record, trail session.Trail) (*attempt, error) {
	w := &attempt{key: s.Key(rec.ID), id: rec.ID, trail: trail.Next(), ttl: ttl(end(rec), s.now())}
	var err error
	if w.text, err = session.EncodeRecord(rec, w.trail); err != nil {
		return nil, err
	}
	return w, s.fits(w.text)
}

// trailSaves is how many versions a Trail reaches back.
var trailSaves = int64(session.TrailLen / len(session.NewTrail().Write()))

// made tells whether this attempt made the version, or one that is up to two
// versions older than what is stored now. It is asked after a "no" too: a grid
// whose member died in between may have done what it then refuses.
func (w *attempt) made(version int64, now *session.Record, trail session.Trail) bool {
	return trail.Has(w.trail.Write(), now.Version-version)
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
	done, lost := s.grid.Add(ctx, w.key, w.text, w.ttl)
	for range maxTries {
		if done {
			return nil
		}
		old, err := s.grid.Get(ctx, w.key)
		switch {
		case err != nil:
			return err
		case old == nil && lost != nil:
			// It is not sent again: the first may be on its way still, and
			// arrive after a sign-out that follows the second.
			return lost
		case old == nil:
			done, lost = s.grid.Add(ctx, w.key, w.text, w.ttl)
			continue
		}
		now, trail, err := session.DecodeRecord(rec.ID, old)
		switch {
		case err != nil:
			return session.ErrConflict // whatever it is, it is not ours to replace
		case w.made(1, now, trail):
			return nil
		case !now.Expired(s.now()):
			return session.ErrConflict
		}
		// The grid has not noticed yet that it has expired.
		done, lost = s.grid.Replace(ctx, w.key, old, w.text, w.ttl)
	}
	return errBusy
}

// update replaces exactly the version that rec is, by comparing the bytes that
// Load left. A touch changes them and not the version.
func (s *Store) update(ctx context.Context, rec *session.Record) error {
	t, ok := rec.Tag.(*tag)
	if !ok || t.id != rec.ID || t.version != rec.Version || !s.now().Before(t.expires) {
		r, err := s.found(ctx, rec.ID)
		switch {
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
	if err := s.admit(ctx, rec, t); err != nil {
		return err
	}
	return s.replace(ctx, rec, w, t.text)
}

func (s *Store) replace(ctx context.Context, rec *session.Record, w *attempt, old []byte) error {
	var lost error
	for range maxTries {
		done, err := s.grid.Replace(ctx, w.key, old, w.text, w.ttl)
		switch {
		case done:
			return nil
		case err != nil && lost != nil:
			return err
		case err != nil:
			lost = err // it may be sent again: it replaces these bytes once
		}
		now, err := s.found(ctx, rec.ID)
		switch {
		case err != nil:
			return err
		case w.made(rec.Version+1, now.Record, now.trail):
			return nil
		case lost != nil && now.Version > rec.Version+trailSaves:
			// Others came so often that the trail does not reach back. As a
			// conflict the change would be made again, and perhaps twice.
			return lost
		case now.Version != rec.Version:
			return session.ErrConflict
		}
		old = now.text // touched, or the write never arrived
	}
	return errBusy
}

// admit sees to the user's index before an update.
func (s *Store) admit(ctx context.Context, rec *session.Record, t *tag) error {
	switch {
	case rec.User == "" || rec.Replaced:
		return nil
	case rec.User != t.user:
		return s.enter(ctx, rec, true)
	case userindex.Deadline(rec.Deadline) > userindex.Deadline(t.deadline):
		return s.enter(ctx, rec, false)
	}
	return nil
}
