package natsstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distsession/session"
	"github.com/nats-io/nats.go"
)

// Save implements session.Store.
func (s *Store) Save(ctx context.Context, rec *session.Record) (string, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	defer s.asks.part(rec.ID)
	if rec.Version == 0 {
		return "", failed("save", s.create(ctx, rec))
	}
	return "", failed("save", s.update(ctx, rec))
}

// attempt is one save under way. Its text holds the name of the write, so that
// it can be sent again, and recognised, when an answer was lost: the sequence of
// the message that it replaces makes sure that it is done once.
type attempt struct {
	id    string
	text  []byte
	trail session.Trail
	ttl   time.Duration
	old   uint64 // the sequence of the message that it replaces, 0 for none
}

func (s *Store) newAttempt(rec *session.Record, trail session.Trail) (*attempt, error) {
	if len(rec.ID) > maxID {
		return nil, fmt.Errorf("an ID has at most %d characters", maxID)
	}
	w := &attempt{id: rec.ID, trail: trail.Next()}
	text, err := session.EncodeRecord(rec, w.trail)
	if err != nil {
		return nil, err
	}
	w.text, w.ttl = text, s.ttl(end(rec))
	return w, s.fits(text)
}

// ttl is how long a message lives. The server counts whole seconds, from 1.
func (s *Store) ttl(end time.Time) time.Duration { return max(end.Sub(s.now()), time.Second) }

// header is what the server and the protocol put around a message.
const header = 1 << 10

func (s *Store) fits(text []byte) error {
	if limit := s.link.nc.MaxPayload(); limit > 0 && int64(len(text)+header) > limit {
		return fmt.Errorf("%w: the record takes %d bytes and a message %d", session.ErrTooLarge, len(text), limit-header)
	}
	return nil
}

// made tells whether this attempt made the version, or one that is up to two
// versions older than what is stored now.
//
// It may have though the answer was that another came first: a leader that was
// cut off and is back hears what is sent to the one that took its place, until
// it learns of it, and may answer sooner.
func (w *attempt) made(version int64, now *session.Record, trail session.Trail) bool {
	return trail.Has(w.trail.Write(), now.Version-version)
}

// send sends the write. If it is not done and there is no error, the caller
// looks what is there and goes on.
func (s *Store) send(ctx context.Context, w *attempt) (done bool, err error) {
	seq, err := s.put(ctx, w.id, w.text, w.old, w.ttl)
	switch {
	case err == nil:
		if rec, trail, err := session.DecodeRecord(w.id, w.text); err == nil && s.copy != nil {
			rec.Tag = newTag(rec, trail, seq)
			s.copy.see(tokenOf(w.id), rec, seq)
		}
		return true, nil
	case errors.Is(err, errWrong):
		return false, nil
	case errors.Is(err, errLost) && ctx.Err() == nil:
		return false, nil
	}
	return false, err
}

// put writes a record's text in place of the message with this sequence.
func (s *Store) put(ctx context.Context, id string, text []byte, old uint64, ttl time.Duration) (uint64, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	seq, err := s.link.publish(ctx, s.subject(id), text, int64(old), ttl)
	var api *apiError
	if errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) && api.ErrCode == codeTooLarge {
		return 0, fmt.Errorf("%w: %w", session.ErrTooLarge, err)
	}
	return seq, err
}

// create adds a record. Its entry in the user's index comes first.
func (s *Store) create(ctx context.Context, rec *session.Record) error {
	w, err := s.newAttempt(rec, session.NewTrail())
	if err != nil {
		return err
	}
	if rec.User != "" && !rec.Replaced {
		if err := s.enter(ctx, rec); err != nil {
			return err
		}
	}
	for n := 0; ; n++ {
		done, err := s.send(ctx, w)
		if done || err != nil {
			return err
		}
		m, err := s.peek(ctx, s.subject(rec.ID))
		switch {
		case errors.Is(err, errNone):
			w.old = 0
		case err != nil:
			return err
		case len(m.Data) == 0: // what was there has been ended
			w.old = m.Seq
		default:
			now, trail, err := session.DecodeRecord(rec.ID, m.Data)
			switch {
			case err != nil:
				return session.ErrConflict // whatever it is, it is not ours to replace
			case w.made(1, now, trail):
				return nil
			case !now.Expired(s.now()):
				return session.ErrConflict
			}
			w.old = m.Seq // the servers have not noticed yet that it has expired
		}
		if err := again(ctx, n); err != nil {
			return err
		}
	}
}

// update replaces exactly the version that rec is. The sequence is only the way
// to do that: a touch changes it and not the version.
func (s *Store) update(ctx context.Context, rec *session.Record) error {
	t, ok := rec.Tag.(*tag)
	if !ok || t.id != rec.ID || t.version != rec.Version || !s.now().Before(t.expires) {
		r, err := s.look(ctx, rec.ID)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return session.ErrNotFound
		case err != nil:
			return err
		case r.Version != rec.Version:
			return session.ErrConflict
		}
		t = newTag(r.Record, r.trail, r.seq)
	}
	w, err := s.newAttempt(rec, t.trail)
	if err != nil {
		return err
	}
	enters := rec.User != t.user || entryEnd(rec.Deadline) > entryEnd(t.deadline)
	if enters && rec.User != "" && !rec.Replaced {
		if err := s.enter(ctx, rec); err != nil {
			return err
		}
	}
	w.old = t.seq
	for n := 0; ; n++ {
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
		case now.Version > rec.Version:
			return session.ErrConflict
		case now.Version == rec.Version:
			w.old = now.seq // touched, or the write never arrived
		} // else a leader that was cut off has answered
		if err := again(ctx, n); err != nil {
			return err
		}
	}
}

// again waits before the next try, but for the first: what came between is
// mostly done by then.
func again(ctx context.Context, n int) error {
	if n == 0 || backoff(ctx, n-1) {
		return ctx.Err()
	}
	return fmt.Errorf("%w: others came first, or no answer came, %d times", ctx.Err(), n+1)
}

// Touch implements session.Toucher. It writes the record's text with other
// times in it; a Save that loaded before finds the same Version.
func (s *Store) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	defer s.asks.part(id)
	return failed("touch", s.touch(ctx, id, seen, expires))
}

func (s *Store) touch(ctx context.Context, id string, seen, expires time.Time) error {
	if len(id) > maxID {
		return session.ErrNotFound
	}
	rec := s.known(id) // if it is not the newest the sequence says so
	for n := 0; ; n++ {
		if rec == nil {
			r, err := s.look(ctx, id)
			switch {
			case errors.Is(err, session.ErrNotFound):
				return session.ErrNotFound
			case err != nil:
				return err
			}
			rec = r.Record
		}
		if rec.Replaced {
			return session.ErrNotFound
		}
		t := rec.Tag.(*tag)
		next := *rec
		if !next.Deadline.IsZero() && expires.After(next.Deadline) {
			expires = next.Deadline
		}
		wasSeen, lives := forward(&next.Seen, seen), forward(&next.Expires, expires)
		if !wasSeen && !lives {
			return nil
		}
		next.Version-- // the text is of the next version, and this one stays
		text, err := session.EncodeRecord(&next, t.trail)
		if err != nil {
			return err
		}
		if err := s.fits(text); err != nil {
			return err
		}
		seq, err := s.put(ctx, id, text, t.seq, s.ttl(end(&next)))
		switch {
		case err == nil:
			next.Version++
			next.Tag = newTag(&next, t.trail, seq)
			s.copy.see(tokenOf(id), &next, seq)
			return nil
		case errors.Is(err, errWrong), errors.Is(err, errLost) && ctx.Err() == nil:
			// If it was done, nothing is left to move.
		default:
			return err
		}
		rec = nil
		if err := again(ctx, n); err != nil {
			return err
		}
	}
}

// forward moves a time, if that is forward.
func forward(t *time.Time, to time.Time) bool {
	if to.UnixMilli() <= t.UnixMilli() {
		return false
	}
	*t = to
	return true
}

// Delete implements session.Store. The entry in the user's index stays.
func (s *Store) Delete(ctx context.Context, id string) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	if len(id) > maxID {
		return nil
	}
	defer s.asks.part(id)
	for n := 0; ; n++ {
		err := s.remove(ctx, id, anyRevision)
		if err == nil || !errors.Is(err, errLost) || ctx.Err() != nil {
			return failed("delete", err)
		}
		if err := again(ctx, n); err != nil {
			return failed("delete", err)
		}
	}
}

// remove writes the message that ends a session, in place of the one with this
// sequence.
func (s *Store) remove(ctx context.Context, id string, old int64) error {
	if err := s.usable(); err != nil {
		return err
	}
	seq, err := s.link.publish(ctx, s.subject(id), nil, old, markerLife, "KV-Operation", "DEL")
	if err == nil {
		s.copy.see(tokenOf(id), nil, seq)
	}
	return err
}
