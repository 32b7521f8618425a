package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

func TestCachedTouches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second})
		rec, token := create(t, c)
		toucher, _ := session.As[session.Toucher](c.Store)
		start := rec.Seen
		for _, tt := range []struct {
			seen, left time.Duration
			touches    int
			why        string
		}{
			{0, time.Hour, 0, "the copy has these times already"},
			{3 * time.Minute, time.Hour, 1, "the manager's tenth of the idle time"},
			{3*time.Minute + 900*time.Millisecond, time.Hour, 0, "less than a second more"},
			{3*time.Minute + 1100*time.Millisecond, time.Hour, 1, "more than a second"},
			{time.Minute, 30 * time.Minute, 0, "backwards: nothing moves"},
			{2 * time.Minute, 2 * time.Hour, 1, "Expires alone moves on, to the Deadline"},
			{3 * time.Minute, 5 * time.Hour, 0, "the Deadline is where it ends"},
		} {
			c.backup.Reset()
			if err := toucher.Touch(t.Context(), rec.ID, start.Add(tt.seen), start.Add(tt.seen+tt.left)); err != nil {
				t.Errorf("%s: %v", tt.why, err)
			}
			if n := c.backup.Calls(storetest.Touch); n != tt.touches {
				t.Errorf("%s: %d touches of the backup, want %d", tt.why, n, tt.touches)
			}
		}
		truth, copied := load(t, c.memory, token), load(t, c, token)
		if c.loads() != 0 || !truth.Seen.Equal(copied.Seen) || !truth.Expires.Equal(copied.Expires) || !truth.Expires.Equal(rec.Deadline) {
			t.Errorf("the backup has %+v, the copy %+v", truth, copied)
		}

		// A short idle timeout: a second is much then.
		short, _ := draft()
		short.Expires = short.Seen.Add(time.Second)
		mustSave(t, c, short)
		c.backup.Reset()
		for i := range 10 { // each is a tenth
			seen := short.Seen.Add(time.Duration(i+1) * 100 * time.Millisecond)
			if err := toucher.Touch(t.Context(), short.ID, seen, seen.Add(time.Second)); err != nil {
				t.Error(err)
			}
		}
		if n := c.backup.Calls(storetest.Touch); n != 10 {
			t.Errorf("%d of 10 touches that matter reached the backup", n)
		}

		// What has ended on another node is known when the copy is too old.
		if err := c.memory.Delete(t.Context(), rec.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		wantErr(t, "a touch of what has ended", toucher.Touch(t.Context(), rec.ID, start, start.Add(time.Hour)), session.ErrNotFound)
		_, err := c.Load(t.Context(), token)
		wantErr(t, "load", err, session.ErrNotFound)
	})
}

// Of many requests that touch at once one does, and the failure is everybody's.
func TestCachedTouchesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: time.Minute})
		rec, token := create(t, c)
		toucher, _ := session.As[session.Toucher](c.Store)
		for _, want := range []error{nil, errAway} {
			gate := storetest.NewGate()
			c.backup.Set(storetest.Touch, func(ctx context.Context, n int, call func() error) error {
				if want != nil {
					return gate.Before(ctx, n, func() error { return want })
				}
				return gate.Before(ctx, n, call)
			})
			c.backup.Reset()
			time.Sleep(5 * time.Minute)
			now := time.Now()
			var wg sync.WaitGroup
			for i := range 20 {
				wg.Go(func() {
					seen := now.Add(time.Duration(i) * time.Millisecond)
					if err := toucher.Touch(t.Context(), rec.ID, seen, seen.Add(time.Hour)); !errors.Is(err, want) {
						t.Errorf("%v, want %v", err, want)
					}
				})
			}
			synctest.Wait()
			gate.Open()
			wg.Wait()
			if n := c.backup.Calls(storetest.Touch); n != 1 {
				t.Errorf("%d touches of the backup", n)
			}
			c.backup.Heal()
		}
		// The one whose request gives up does not fail the others.
		c.backup.Set(storetest.Touch, storetest.Nth(1, storetest.Stall()))
		ctx, cancel := context.WithCancel(t.Context())
		time.Sleep(5 * time.Minute)
		now := time.Now()
		first := make(chan error)
		go func() { first <- toucher.Touch(ctx, rec.ID, now, now.Add(time.Hour)) }()
		synctest.Wait()
		second := make(chan error)
		go func() { second <- toucher.Touch(t.Context(), rec.ID, now, now.Add(time.Hour)) }()
		synctest.Wait()
		cancel()
		wantErr(t, "the one that gave up", <-first, context.Canceled)
		if err := <-second; err != nil {
			t.Errorf("the other: %v", err)
		}
		if got := load(t, c.memory, token); !got.Seen.Equal(now) {
			t.Errorf("seen %v, want %v", got.Seen, now)
		}
	})
}
