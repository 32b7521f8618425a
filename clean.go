package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// CleanerOptions configure RunCleaner. The zero value suits most.
type CleanerOptions struct {
	// Interval is the time between two rounds, give or take a tenth. If 0, it
	// is 5 minutes.
	Interval time.Duration

	// Batch is how many records one call of Clean removes. If 0, it is 1,000.
	Batch int

	// Pause is the time between two batches of one round, so that a large
	// round leaves room for requests. If 0, it is 50 milliseconds.
	Pause time.Duration

	// Timeout is that of each call of the store. If 0, it is 10 seconds.
	Timeout time.Duration

	// Late is how long a record has been expired before it is removed, so that
	// a node whose clock is ahead removes nothing that is live for the others.
	// If 0, it is one minute; if negative, there is none.
	Late time.Duration

	// Now is the clock that tells what has expired; nil is time.Now.
	Now func() time.Time

	// Logger gets failures (Warn) and what a round removed (Debug); nil is
	// slog.Default().
	Logger *slog.Logger
}

const (
	cleanInterval = 5 * time.Minute
	cleanBatch    = 1000
	cleanPause    = 50 * time.Millisecond
	cleanTimeout  = 10 * time.Second
	cleanLate     = time.Minute
	cleanBackoff  = time.Second // after a first failure

	// cleanLease is the name under which the nodes agree on who cleans.
	cleanLease = "clean"
)

// RunCleaner removes expired records from s until ctx ends, and then returns
// ctx's error. Start it beside the server:
//
//	go session.RunCleaner(ctx, store, nil)
//
// Expired records are never returned, so the cleaner only frees space, and
// nothing is lost while none runs.
//
// A store that is no Cleaner has nothing to clean: RunCleaner returns an
// errors.ErrUnsupported at once. Options that cannot be used are ErrConfig. No
// other error ends it: a failure is logged, and the next attempt follows after
// a second, then after ever longer, up to Interval.
//
// Where the store is a Leaser, one node at a time cleans. It keeps its lease
// from round to round; when it ends it gives the lease back, and when it dies
// another takes over within three intervals. Without a Leaser each node
// cleans, which is more work and no harm.
//
// When ctx ends, the call of Clean that is under way is cut short by its
// context: the store keeps or undoes what that batch did, and the rest waits
// for the next cleaner.
func RunCleaner(ctx context.Context, s Store, opts *CleanerOptions) error {
	cleaner, ok := As[Cleaner](s)
	if !ok {
		return errUnsupported("remove expired records")
	}
	c := cleanerRun{cleaner: cleaner}
	if opts != nil {
		c.opts = *opts
	}
	if err := c.defaults(); err != nil {
		return err
	}
	c.leaser, _ = As[Leaser](s)
	defer c.giveBack(ctx)
	// Nodes that are started together do not begin together.
	wait := rand.N(c.opts.Interval/10 + 1)
	backoff := cleanBackoff
	for {
		if err := waitFor(ctx, wait); err != nil {
			return err
		}
		removed, err := c.round(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errors.ErrUnsupported):
			return err // a wrapper has the ability, the store behind it lacks it
		case err != nil:
			wait = min(backoff, c.opts.Interval)
			backoff = min(2*backoff, c.opts.Interval)
			c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "session: expired records cannot be removed; trying again",
				slog.Any("error", err), slog.Int("removed", removed), slog.Duration("wait", wait))
			wait = around(wait)
			continue
		case removed > 0:
			c.opts.Logger.LogAttrs(ctx, slog.LevelDebug, "session: expired records removed", slog.Int("removed", removed))
		}
		wait, backoff = around(c.opts.Interval), cleanBackoff
	}
}

type cleanerRun struct {
	cleaner Cleaner
	leaser  Leaser // nil if every node cleans
	opts    CleanerOptions
	held    bool
}

func (c *cleanerRun) defaults() error {
	o := &c.opts
	if o.Interval < 0 || o.Batch < 0 || o.Pause < 0 || o.Timeout < 0 {
		return configError("CleanerOptions: Interval, Batch, Pause and Timeout must not be negative; leave them 0 for the defaults")
	}
	o.Interval = cmp.Or(o.Interval, cleanInterval)
	o.Batch = cmp.Or(o.Batch, cleanBatch)
	o.Pause = cmp.Or(o.Pause, cleanPause)
	o.Timeout = cmp.Or(o.Timeout, cleanTimeout)
	o.Late = max(cmp.Or(o.Late, cleanLate), 0)
	o.Now = nowOr(o.Now)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return nil
}

// round removes what has expired, if it is this node's turn, batch after batch.
func (c *cleanerRun) round(ctx context.Context) (removed int, err error) {
	for {
		// Renewed before each batch: a round may last.
		if turn, err := c.lease(ctx); err != nil || !turn {
			return removed, err
		}
		n, err := c.batch(ctx)
		removed += max(n, 0)
		if err != nil {
			return removed, fmt.Errorf("session: clean: %w", err)
		}
		if n < c.opts.Batch {
			return removed, nil
		}
		if err := waitFor(ctx, c.opts.Pause); err != nil {
			return removed, err
		}
	}
}

// lease tells whether it is this node's turn. A lease outlives the next round
// even if that is late, so that the turn does not go round while its holder
// lives.
func (c *cleanerRun) lease(ctx context.Context) (bool, error) {
	if c.leaser == nil {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	held, err := c.leaser.Lease(ctx, cleanLease, 3*c.opts.Interval/2+2*c.opts.Timeout)
	if errors.Is(err, errors.ErrUnsupported) {
		c.leaser = nil
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("session: lease: %w", err)
	}
	c.held = held
	return held, nil
}

func (c *cleanerRun) batch(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	return c.cleaner.Clean(ctx, c.opts.Now().Add(-c.opts.Late), c.opts.Batch)
}

// giveBack lets another node clean next. Whether it can or not, the lease ends
// by itself.
func (c *cleanerRun) giveBack(ctx context.Context) {
	if !c.held {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := c.leaser.Lease(ctx, cleanLease, 0); err != nil {
		c.opts.Logger.LogAttrs(ctx, slog.LevelDebug, "session: the cleaner's lease was not given back; it ends by itself", slog.Any("error", err))
	}
}

// waitFor waits for d, or returns ctx's error.
func waitFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// around is d, give or take a tenth.
func around(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }
