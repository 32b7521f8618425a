package session

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"
)

// replacedFor is how long a renewed ID is remembered by its marker. Requests
// that were under way with the old token when it was renewed end sooner; one
// that runs longer sets no cookie by itself (see Manager.load).
const replacedFor = time.Minute

// replace gives the session a new token, for SetUser and Renew: create the new
// record, then claim the old one by compare-and-set. Whatever fails in
// between, the user has a session; whoever does not win the claim deletes what
// it created.
func (c *commit) replace() error {
	if c.begun() {
		return ErrCommitted
	}
	old := c.rec
	if old != nil {
		ln, err := c.enter(old.ID)
		if err != nil {
			return err
		}
		defer c.m.lanes.leave(ln, old.ID)
		if ln.ended {
			return errGone
		}
		if err := c.catchUpOn(ln, &old); err != nil {
			return err
		}
		err = c.replaceRecord(old)
		ln.ended = err == nil || errors.Is(err, errGone)
		return err
	}
	return c.replaceRecord(nil)
}

// catchUpOn is catchUp for a session that is about to be replaced: its values
// count only if they stay.
func (c *commit) catchUpOn(ln *lane, old **Record) error {
	if c.keepsValues(*old) {
		err := c.catchUp(ln)
		*old = c.rec
		return err
	}
	switch {
	case ln.saved != nil && ln.saved.Version > (*old).Version:
		*old = ln.saved
	case c.stale:
		rec, err := c.reload(c.token)
		if err != nil {
			return err
		}
		*old, c.stale = rec, false
	}
	return nil
}

// keepsValues tells whether the values of old pass on to the new session.
func (c *commit) keepsValues(old *Record) bool {
	return c.renew && !c.signIn || old.User == "" || old.User == c.nextUser
}

func (c *commit) replaceRecord(old *Record) error {
	fresh := &Record{}
	if c.signIn {
		fresh.User, fresh.Created, fresh.SignedIn = c.nextUser, c.at, c.at
		fresh.Device = c.device
		if err := c.comeLast(fresh); err != nil {
			return err
		}
	} else {
		fresh.User, fresh.Created, fresh.SignedIn, fresh.Device = old.User, old.Created, old.SignedIn, old.Device
	}
	token, send, saves := c.token, c.send, c.saves
	if err := c.create(fresh); err != nil {
		return err
	}
	mine, sealed := c.rec, c.stale
	fail := func(err error) error {
		// What was sealed into a token that nobody got is nowhere.
		if !sealed {
			if e := c.end(mine); e != nil {
				c.m.log.Warn("session: a new session that nobody holds could not be deleted; it will expire", "id", mine.ID, "error", e)
			}
		}
		c.rec, c.token, c.send, c.saves = old, token, send, saves
		return err
	}
	if err := c.trim(mine, old); err != nil {
		return fail(err)
	}
	var err error
	if old != nil {
		var won bool
		if won, err = c.claim(old, token); !won {
			return fail(err)
		}
	}
	c.signIn, c.renew, c.nextUser = false, false, ""
	c.replaced, c.mute = false, false
	return err
}

// claim ends old by putting a marker in its place, which one request alone can
// do, and takes over what other requests saved in it meanwhile. It may be won
// and still fail, if too few replicas know of it: the answer is a failure then,
// which carries the new token.
func (c *commit) claim(old *Record, token string) (won bool, err error) {
	for try := 0; ; try++ {
		marker := *old
		marker.User, marker.Data, marker.SignedIn = "", nil, time.Time{}
		marker.Replaced = true
		marker.Deadline = c.m.latest(old)
		marker.Device = c.rec.ID // who won, for the winner that got no answer
		marker.Seen = c.m.now()
		marker.Expires = marker.Seen.Add(replacedFor)
		_, err := c.save(&marker)
		if err == nil {
			return true, nil
		}
		if errors.Is(err, ErrNotFound) {
			return false, errGone
		}
		conflict := errors.Is(err, ErrConflict)
		if conflict {
			c.m.stats.conflicts.Add(1)
			if err := c.backOff(try, err); err != nil {
				return false, err
			}
		}
		now, lookErr := c.reloadAtLeast(token, old.Version+1)
		switch {
		case lookErr == nil && now.Replaced && now.Device == c.rec.ID:
			if few := new(tooFewError); errors.As(err, &few) {
				return true, err
			}
			return true, nil // it was applied, only its answer was lost
		case !conflict:
			return false, err
		case lookErr != nil:
			return false, lookErr
		case now.Replaced:
			return false, errGone
		}
		if err := c.takeOver(now); err != nil {
			return false, err
		}
		old = now
	}
}

// takeOver puts the values that another request saved in the old session into
// the new one.
func (c *commit) takeOver(old *Record) error {
	mine := c.rec
	if !c.keepsValues(old) {
		return nil
	}
	if err := c.use(old); err != nil {
		return err
	}
	c.rec = mine
	next := *mine
	if err := c.fill(&next); err != nil {
		return err
	}
	if bytes.Equal(next.Data, mine.Data) && next.Persist == mine.Persist {
		return nil
	}
	sealed, err := c.save(&next)
	switch {
	case errors.Is(err, ErrNotFound):
		return errGone // signed out everywhere, just now
	case err != nil:
		return c.unexpected(err)
	}
	c.saved(&next, sealed)
	return nil
}

// comeLast makes the sign-in the user's newest where they are counted, though
// another node's clock is ahead or the last one was in this very millisecond.
func (c *commit) comeLast(mine *Record) error {
	if c.m.opts.MaxSessions == 0 {
		return nil
	}
	live, err := c.list(mine.User)
	for _, info := range live {
		if !mine.SignedIn.After(info.SignedIn) && info.SignedIn.Before(c.at.Add(maxSkew)) {
			mine.SignedIn = info.SignedIn.Add(time.Millisecond)
		}
	}
	return err
}

func (c *commit) list(user string) (live []Info, err error) {
	err = c.call("list", func(ctx context.Context) error {
		for info, err := range List(ctx, c.m.store, user) {
			if err != nil {
				return err
			}
			live = append(live, info)
		}
		return nil
	})
	return live, err
}

// trim ends the user's oldest sessions beyond MaxSessions. All nodes count the
// same way, so sign-ins at once neither leave too many nor end each other.
func (c *commit) trim(mine, old *Record) error {
	if c.m.opts.MaxSessions == 0 || !c.signIn {
		return nil
	}
	live, err := c.list(mine.User)
	if err != nil {
		return err
	}
	live = slices.DeleteFunc(live, func(info Info) bool { return old != nil && info.ID == old.ID })
	slices.SortFunc(live, func(a, b Info) int {
		return cmp.Or(b.SignedIn.Compare(a.SignedIn), cmp.Compare(b.ID, a.ID))
	})
	for _, info := range live[min(len(live), c.m.opts.MaxSessions):] {
		if err := c.end(&Record{ID: info.ID, Deadline: info.Expires}); err != nil {
			return err
		}
	}
	return nil
}
