package memcachedstore_test

import (
	"math"
	"testing"
	"time"

	"github.com/distsession/session/memcachedstore"
)

func TestExpiration(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Unix(1_800_000_000, 500_000_000)
	for _, tt := range []struct {
		left time.Duration
		want int32
		why  string
	}{
		{time.Millisecond, 2, "rounded up, and one for a tick that comes at once"},
		{time.Second, 2, "a whole second needs no rounding"},
		{time.Second + 1, 3, "a nanosecond more does"},
		{time.Hour, 3601, "an hour"},
		{0, 1, "it has expired; 0 would be for ever"},
		{-time.Hour, 1, "a negative number is an error on Infinispan"},
		{30*day - time.Second, 2_592_000, "the last that is a span"},
		{30 * day, 1_800_000_000 + 2_592_001 + 3600, "a date from here on, late enough for a clock that is ahead"},
		{400 * day, 1_800_000_000 + 400*86400 + 1 + 3600, "a long one"},
		{20 * 365 * day, 2_592_000, "past 2038 there is no date"},
		{math.MaxInt64, 2_592_000, "the longest span there is"},
	} {
		if got := memcachedstore.Expiration(now.Add(tt.left), now); got != tt.want {
			t.Errorf("%v (%s): %d; want %d", tt.left, tt.why, got, tt.want)
		}
	}
}

// A record lives to its own time and no longer, on a server whose clock is a
// minute off, and whatever its seconds are.
func TestServerClockIsOff(t *testing.T) {
	for name, off := range map[string]time.Duration{"right": 0, "a minute behind": -time.Minute, "a minute ahead": time.Minute} {
		for _, life := range []time.Duration{time.Second, 90 * time.Minute, 29 * 24 * time.Hour, 45 * 24 * time.Hour} {
			now := time.Unix(1_800_000_000, 999_000_000) // the clock is about to tick
			clock := func() time.Time { return now }
			f := newFake(t, fakeConf{now: func() time.Time { return now.Add(off) }})
			s := newStore(t, []string{f.Addr}, memcachedstore.Options{Now: clock})
			rec, token := draft("ann", now)
			rec.Expires, rec.Deadline = now.Add(life), now.Add(2*life)
			save(t, s, rec)
			now = now.Add(life - time.Millisecond)
			if _, err := s.Load(t.Context(), token); err != nil {
				t.Errorf("clock %s, life %v: a millisecond before its end: %v", name, life, err)
			}
			now = now.Add(time.Millisecond)
			gone(t, s, token, "at its end, clock "+name)
		}
	}
}

// After a touch the item lives as long as the record.
func TestTouchMovesTheItem(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	f := newFake(t, fakeConf{now: clock})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{Now: clock})
	rec, token := draft("ann", now)
	rec.Expires = now.Add(time.Minute)
	save(t, s, rec)
	if err := s.Touch(t.Context(), rec.ID, now, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if it := f.item(t, s.Key(rec.ID)); it.expires != now.Unix()+3601 {
		t.Errorf("the item lives for %d s; want 3601", it.expires-now.Unix())
	}
	now = now.Add(time.Hour - time.Second)
	load(t, s, token)
}
