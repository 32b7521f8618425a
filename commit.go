package session

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// maxTries bounds the replays of one commit; its time is bounded too.
const maxTries = 64

// errGone: another request ended or replaced the session, so the changes are
// dropped. Not a failure of this one.
var errGone = ErrNotFound

// commitNow commits what is pending, with a deadline of its own: a client that
// hangs up does not lose the write. s.mu is held.
func (s *Session) commitNow(ctx context.Context) error {
	if s.fatal != nil {
		return s.fatal
	}
	if !s.pending() {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	c := &commit{Session: s, ctx: ctx, until: time.Now().Add(3 * s.m.timeout)}
	err := c.run()
	switch {
	case err == nil:
		s.ops, s.persists = nil, false
	case errors.Is(err, errGone):
		s.dropped()
	case errors.Is(err, ErrCommitted):
		s.forget()
		s.commitTooLate()
	default:
		s.fail(err)
		s.m.stats.failures.Add(1)
	}
	return err
}

func (s *Session) pending() bool {
	return len(s.ops) > 0 || s.signIn || s.renew || s.persists || len(s.ended) > 0 || s.clear
}

// dropped gives up the changes of a session that another request ended.
func (s *Session) dropped() {
	s.m.stats.dropped.Add(1)
	s.forget()
	s.note(ErrNotFound)
	s.rec, s.mute, s.send = nil, true, sendNothing
	s.persist = false
	s.view.reset(nil)
}

func (s *Session) forget() {
	s.ops, s.signIn, s.renew, s.nextUser, s.next = nil, false, false, "", ""
	s.persists = false
}

// commit is one commit of a session.
type commit struct {
	*Session
	ctx   context.Context
	until time.Time // no call of the store ends later
}

// call runs one call of the store under its own deadline.
func (c *commit) call(op string, f func(ctx context.Context) error) error {
	now := time.Now()
	if !now.Before(c.until) {
		return &storeError{op, context.DeadlineExceeded}
	}
	deadline := now.Add(c.m.timeout)
	if deadline.After(c.until) {
		deadline = c.until
	}
	ctx := newCall(c.ctx, deadline)
	defer ctx.end()
	err := f(ctx)
	if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict) {
		return err
	}
	return &storeError{op, err}
}

func (c *commit) save(rec *Record) (token string, err error) {
	err = c.call("save", func(ctx context.Context) (err error) {
		token, err = c.m.store.Save(ctx, rec)
		return err
	})
	return token, err
}

// reload returns the record as it is now; ErrNotFound if it was ended.
func (c *commit) reload(token string) (*Record, error) { return c.reloadAtLeast(token, 0) }

// reloadAtLeast does so after a conflict, which a copy may not know of yet.
func (c *commit) reloadAtLeast(token string, version int64) (rec *Record, err error) {
	err = c.call("load", func(ctx context.Context) (err error) {
		rec, err = loadAtLeast(ctx, c.m.store, token, version)
		return err
	})
	if err == nil && rec.Expired(c.m.now()) {
		return nil, ErrNotFound
	}
	return rec, err
}

func (c *commit) end(rec *Record) error {
	return c.call("delete", func(ctx context.Context) error {
		return c.m.store.Delete(withDeadline(ctx, c.m.latest(rec)), rec.ID)
	})
}

func (c *commit) run() error {
	if c.mute && !c.signIn {
		if len(c.ops) == 0 && !c.persists && !c.renew && len(c.ended) == 0 {
			return nil
		}
		return errGone
	}
	if err := c.destroy(); err != nil {
		return err
	}
	switch {
	case c.signIn, c.renew:
		return c.replace()
	case c.rec != nil:
		return c.update()
	case len(c.view.members) == 0:
		return nil // nothing was written: no record, no cookie
	case c.begun():
		return ErrCommitted
	}
	return c.create(&Record{Created: c.born})
}

// destroy ends the records that Destroy was called on.
func (c *commit) destroy() error {
	for len(c.ended) > 0 {
		if err := c.endInLane(c.ended[0]); err != nil {
			return err
		}
		c.ended = c.ended[1:]
	}
	if c.clear {
		c.clear, c.token, c.send = false, "", sendClear
		if c.begun() {
			c.commitTooLate() // the record has ended; the cookie stays
		}
	}
	return nil
}

func (c *commit) endInLane(rec *Record) error {
	ln, err := c.enter(rec.ID)
	if err != nil {
		return err
	}
	defer c.m.lanes.leave(ln, rec.ID)
	err = c.end(rec)
	ln.ended = ln.ended || err == nil
	return err
}

func (c *commit) enter(id string) (*lane, error) {
	ctx := newCall(c.ctx, c.until)
	defer ctx.end()
	ln, err := c.m.lanes.enter(ctx, id)
	if err != nil {
		return nil, &storeError{"save", fmt.Errorf("waiting for other requests of the session: %w", err)}
	}
	return ln, nil
}

// create makes a record of the session's values. rec says when it was created
// and who is signed in.
func (c *commit) create(rec *Record) error {
	if err := c.fill(rec); err != nil {
		return err
	}
	for try := 0; ; try++ {
		token := c.nextToken()
		rec.ID = ID(token)
		sealed, err := c.save(rec)
		if err == nil {
			if err = c.m.checkToken(cmp.Or(sealed, token)); err != nil {
				return err // only a client-side token can be too long, and it was never sent
			}
			c.saved(rec, sealed)
			c.token, c.next, c.send = cmp.Or(sealed, token), "", sendSet
			return nil
		}
		if !errors.Is(err, ErrConflict) || try == 3 {
			return c.unexpected(err)
		}
		c.next = "" // that ID exists: draw another token
	}
}

// fill puts the values and the times of the next version into rec.
func (c *commit) fill(rec *Record) error {
	rec.Data = c.view.encode()
	if len(rec.Data) > c.m.maxData {
		return fmt.Errorf("%w: the values take %d bytes and MaxData is %d", ErrTooLarge, len(rec.Data), c.m.maxData)
	}
	rec.Persist = c.persist
	rec.Seen = c.m.now()
	rec.Deadline, rec.Expires = c.m.times(rec.Created, rec.Seen, rec.Persist)
	return nil
}

// saved makes rec, as it was just saved, what the session builds on.
func (c *commit) saved(rec *Record, sealed string) {
	done := *rec
	done.Version++
	done.Tag = nil
	c.rec, c.saves = &done, true
	if sealed != "" {
		c.token, c.stale, c.send = sealed, true, sendSet
	}
}

// update saves the changes as the next version of the record.
func (c *commit) update() error {
	ln, err := c.enter(c.rec.ID)
	if err != nil {
		return err
	}
	defer c.m.lanes.leave(ln, c.rec.ID)
	if ln.ended {
		return errGone
	}
	if err := c.catchUp(ln); err != nil {
		return err
	}
	for try := 0; ; try++ {
		next := *c.rec
		if err := c.fill(&next); err != nil {
			return err
		}
		if bytes.Equal(next.Data, c.rec.Data) && next.Persist == c.rec.Persist {
			return nil // what it set was there already
		}
		sealed, err := c.save(&next)
		switch {
		case err == nil:
			if sealed != "" {
				if err := c.m.checkToken(sealed); err != nil {
					return err
				}
				if c.begun() {
					return ErrCommitted
				}
			}
			if c.persists {
				c.send = sendSet // the same token, kept for another time
			}
			c.saved(&next, sealed)
			if sealed == "" {
				ln.saved = c.rec
			}
			return nil
		case !errors.Is(err, ErrConflict):
			return err
		}
		if err := c.again(try, err); err != nil {
			return err
		}
	}
}

// catchUp builds on what the request before this one saved.
func (c *commit) catchUp(ln *lane) error {
	switch {
	case ln.saved != nil && ln.saved.Version > c.rec.Version:
		return c.use(ln.saved)
	case c.stale:
		rec, err := c.reload(c.token)
		if err != nil {
			return err
		}
		c.stale = false
		return c.use(rec)
	}
	return nil
}

// again loads what another request saved, after a conflict, and replays the
// changes on it.
func (c *commit) again(try int, conflict error) error {
	c.m.stats.conflicts.Add(1)
	if err := c.backOff(try, conflict); err != nil {
		return err
	}
	rec, err := c.reloadAtLeast(c.token, c.rec.Version+1)
	switch {
	case err != nil:
		return err
	case rec.Replaced:
		return errGone
	}
	c.stale = false
	return c.use(rec)
}

// backOff waits a random while, longer with each try.
func (c *commit) backOff(try int, conflict error) error {
	if try == maxTries || !time.Now().Before(c.until) {
		return &storeError{"save", fmt.Errorf("%w after %d tries", conflict, try+1)}
	}
	if try == 0 {
		return nil // most often one reload is enough
	}
	time.Sleep(rand.N(min(time.Millisecond<<min(try, 5), 20*time.Millisecond)))
	return nil
}

// unexpected is for an error that the store's contract does not allow there: a
// failure of the store, and never a session that another request ended.
func (c *commit) unexpected(err error) error {
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		return &storeError{"save", fmt.Errorf("a new record: %w: %v", errContract, err)}
	}
	return err
}

var errContract = errors.New("the store broke its contract")

// touch tells the store that the session was used, at most once in a tenth of
// the idle time. Its failure does not fail the request, which only reads.
func (s *Session) touch(ctx context.Context) {
	if s.rec == nil || s.mute || s.fatal != nil {
		return
	}
	now := s.born // the request's time will do, and is known
	if now.Sub(s.rec.Seen) < s.m.touchEvery {
		return
	}
	next := *s.rec
	next.Seen = now
	_, next.Expires = s.m.times(next.Created, now, next.Persist)
	c := &commit{Session: s, ctx: context.WithoutCancel(ctx), until: time.Now().Add(s.m.timeout)}
	var err error
	if s.m.toucher != nil {
		err = c.call("touch", func(ctx context.Context) error {
			return s.m.toucher.Touch(ctx, next.ID, next.Seen, next.Expires)
		})
		if err == nil {
			s.rec = &next
		}
	} else if now.Sub(s.rec.Seen) >= s.m.resealAfter && !s.stale {
		var sealed string
		if sealed, err = c.save(&next); err == nil && s.m.checkToken(sealed) == nil {
			c.saved(&next, sealed)
		}
	}
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, errors.ErrUnsupported):
	default:
		s.m.log.Warn("session: touch failed; the session may end early", "id", next.ID, "error", err)
	}
}
