package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// shelf is a store that removes nothing by itself: its clock stands, and only
// the cleaner's runs.
type shelf struct {
	*session.MemoryStore
	faulty *storetest.Faulty
	log    bytes.Buffer
}

func newShelf(wrap func(session.Store) session.Store) *shelf {
	start := time.Now()
	s := &shelf{MemoryStore: session.NewMemoryStore(&session.MemoryOptions{Now: func() time.Time { return start }})}
	s.faulty = storetest.NewFaulty(wrap(s.MemoryStore))
	return s
}

func alone(s session.Store) session.Store { return s }

// put saves n records that expire after life.
func (s *shelf) put(t *testing.T, n int, life time.Duration) {
	t.Helper()
	now := time.Now()
	for range n {
		rec := &session.Record{ID: session.ID(session.NewToken()), Created: now, Seen: now, Expires: now.Add(life)}
		if _, err := s.Save(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *shelf) options() *session.CleanerOptions {
	return &session.CleanerOptions{Logger: slog.New(slog.NewTextHandler(&s.log, nil))}
}

// clean runs a cleaner in the background; end stops it and returns its error.
func (s *shelf) clean(t *testing.T, opts *session.CleanerOptions) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	err := make(chan error, 1)
	go func() { err <- session.RunCleaner(ctx, s.faulty, opts) }()
	return func() error { cancel(); return <-err }
}

// after lets d pass, and then all goroutines come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestCleaner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(alone)
		defer s.Close()
		s.put(t, 2500, time.Minute)
		s.put(t, 7, 24*time.Hour)
		end := s.clean(t, s.options())
		after(time.Minute + time.Second) // the first round: it is all expired, but not late enough
		if n, calls := s.Len(), s.faulty.Calls(storetest.Clean); n != 2507 || calls != 1 {
			t.Errorf("after a minute %d records are left, %d calls; want all, 1", n, calls)
		}
		after(6 * time.Minute)
		if n, calls := s.Len(), s.faulty.Calls(storetest.Clean); n != 7 || calls != 1+3 {
			t.Errorf("after the second round %d records are left, %d calls; want 7, 3 batches more", n, calls)
		}
		s.faulty.Reset()
		after(time.Hour)
		if calls := s.faulty.Calls(storetest.Clean); calls < 10 || calls > 14 {
			t.Errorf("%d calls in an hour; want one in about 5 minutes", calls)
		}
		after(24 * time.Hour)
		if n := s.Len(); n != 0 {
			t.Errorf("after a day %d records are left", n)
		}
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("when the context ends: %v", err)
		}
		if s.log.Len() > 0 {
			t.Errorf("logged, though nothing failed:\n%s", &s.log)
		}
	})
}

func TestCleanerLate(t *testing.T) {
	for _, tt := range []struct {
		why  string
		late time.Duration
		gone bool // 4 minutes after Expires
	}{
		{"the default is a minute", 0, true},
		{"longer: nothing is removed yet", time.Hour, false},
		{"negative: at once", -1, true},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(alone)
				defer s.Close()
				s.put(t, 3, time.Minute)
				o := s.options()
				o.Late, o.Interval = tt.late, time.Minute
				defer s.clean(t, o)()
				after(5 * time.Minute)
				if n := s.Len(); (n == 0) != tt.gone {
					t.Errorf("%d of 3 are left", n)
				}
			})
		})
	}
}

// A store that fails, or never answers, does not end the cleaner; it tries less
// and less often, and cleans as soon as the store works again.
func TestCleanerFailure(t *testing.T) {
	for _, tt := range []struct {
		why   string
		fault storetest.Fault
	}{
		{"it fails", storetest.Fail(errors.New("connection refused"))},
		{"it does not answer: each call has a deadline", storetest.Stall()},
		{"the answer is lost", storetest.LoseAnswer(errors.New("connection reset"))},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(alone)
				defer s.Close()
				s.put(t, 1, time.Minute)
				after(10 * time.Minute)
				s.faulty.Set(storetest.Clean, tt.fault)
				end := s.clean(t, s.options())
				after(time.Hour)
				// 1, 2, 4 … 256 seconds, then 5 minutes.
				if calls := s.faulty.Calls(storetest.Clean); calls < 14 || calls > 26 {
					t.Errorf("%d attempts in an hour of failure", calls)
				}
				if n := strings.Count(s.log.String(), "level=WARN"); n != s.faulty.Calls(storetest.Clean) {
					t.Errorf("%d failures logged of %d", n, s.faulty.Calls(storetest.Clean))
				}
				s.faulty.Heal()
				s.log.Reset()
				s.put(t, 5, 0)
				after(10 * time.Minute)
				if n := s.Len(); n != 0 || s.log.Len() > 0 {
					t.Errorf("after the store came back %d records are left, and logged:\n%s", n, &s.log)
				}
				if err := end(); !errors.Is(err, context.Canceled) {
					t.Errorf("when the context ends: %v", err)
				}
			})
		})
	}
}

// A call that hangs when the context ends does not hold the cleaner up.
func TestCleanerEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf(alone)
		defer s.Close()
		s.faulty.Set(storetest.Clean, storetest.Stall())
		o := s.options()
		o.Timeout = 12 * time.Hour
		end := s.clean(t, o)
		after(time.Minute)
		at := time.Now()
		if err := end(); !errors.Is(err, context.Canceled) || time.Since(at) != 0 {
			t.Errorf("%v after %v; want Canceled at once", err, time.Since(at))
		}
	})
}

func TestCleanerRefuses(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	for _, tt := range []struct {
		why   string
		store session.Store
		opts  session.CleanerOptions
		want  error
	}{
		{"a store that is no Cleaner", onlyStore{memory}, session.CleanerOptions{}, errors.ErrUnsupported},
		{"a wrapper that finds out late", cleansNothing{memory}, session.CleanerOptions{Interval: 1}, errors.ErrUnsupported},
		{"a negative interval", memory, session.CleanerOptions{Interval: -1}, session.ErrConfig},
		{"a negative batch", memory, session.CleanerOptions{Batch: -1}, session.ErrConfig},
		{"a negative timeout", memory, session.CleanerOptions{Timeout: -1}, session.ErrConfig},
		{"a negative pause", memory, session.CleanerOptions{Pause: -1}, session.ErrConfig},
	} {
		if err := session.RunCleaner(t.Context(), tt.store, &tt.opts); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", tt.why, err, tt.want)
		}
	}
}

// onlyStore hides every ability.
type onlyStore struct{ inner session.Store }

func (s onlyStore) Load(ctx context.Context, token string) (*session.Record, error) {
	return s.inner.Load(ctx, token)
}
func (s onlyStore) Save(ctx context.Context, rec *session.Record) (string, error) {
	return s.inner.Save(ctx, rec)
}
func (s onlyStore) Delete(ctx context.Context, id string) error { return s.inner.Delete(ctx, id) }

type cleansNothing struct{ session.Store }

func (cleansNothing) Clean(context.Context, time.Time, int) (int, error) {
	return 0, fmt.Errorf("the store behind it: %w", errors.ErrUnsupported)
}

// leases is a store with leases by the one clock of the bubble.
type leases struct {
	session.Store
	node string
	all  *sharedLeases
}

type sharedLeases struct {
	mu     sync.Mutex
	holder string
	until  time.Time
	log    []string // who got or renewed the lease
}

func (l *leases) Unwrap() session.Store { return l.Store }

func (l *leases) Lease(_ context.Context, _ string, d time.Duration) (bool, error) {
	l.all.mu.Lock()
	defer l.all.mu.Unlock()
	if l.all.holder != l.node && time.Now().Before(l.all.until) {
		return false, nil
	}
	l.all.holder, l.all.until = l.node, time.Now().Add(d)
	l.all.log = append(l.all.log, l.node)
	return d > 0, nil
}

func (s *sharedLeases) of(node string) func(session.Store) session.Store {
	return func(inner session.Store) session.Store { return &leases{inner, node, s} }
}

func TestCleanerLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all sharedLeases
		a, b := newShelf(all.of("a")), newShelf(all.of("b"))
		defer a.Close()
		defer b.Close()
		endA := a.clean(t, a.options())
		after(time.Minute)
		endB := b.clean(t, b.options())
		cleans := func() (int, int) { return a.faulty.Calls(storetest.Clean), b.faulty.Calls(storetest.Clean) }
		after(3 * time.Hour)
		if inA, inB := cleans(); inA < 30 || inB != 0 {
			t.Errorf("calls of the holder %d, of the other %d; want one in five minutes, none", inA, inB)
		}
		if n := b.faulty.Calls(storetest.Lease); n < 30 {
			t.Errorf("the other asked %d times for the lease", n)
		}

		// The holder gives the lease back when it ends.
		endA()
		after(6 * time.Minute)
		if _, inB := cleans(); inB == 0 {
			t.Error("the holder has ended, and nobody cleans")
		}

		// A holder that dies does not; the lease passes on all the same.
		endA = a.clean(t, a.options())
		b.faulty.SetAll(storetest.Stall())
		endB()
		a.faulty.Reset()
		after(15 * time.Minute)
		if inA, _ := cleans(); inA == 0 {
			t.Error("the holder died, and nobody cleans after three intervals")
		}
		endA()
	})
}

// A lease that is lost in the middle of a round ends the round.
func TestCleanerLosesLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all sharedLeases
		s := newShelf(all.of("a"))
		defer s.Close()
		s.put(t, 50, time.Second)
		after(2 * time.Minute)
		s.faulty.Set(storetest.Clean, func(_ context.Context, n int, call func() error) error {
			if n == 3 {
				all.mu.Lock()
				defer all.mu.Unlock()
				all.holder, all.until = "b", time.Now().Add(24*time.Hour)
			}
			return call()
		})
		o := s.options()
		o.Batch = 10
		defer s.clean(t, o)()
		after(time.Hour)
		if n, calls := s.Len(), s.faulty.Calls(storetest.Clean); n != 20 || calls != 3 {
			t.Errorf("%d records left after %d batches; want 20 after 3", n, calls)
		}
	})
}

// A lease that cannot be had because the store fails is a failure like any
// other, and without the ability behind it every node cleans.
func TestCleanerLeaseFails(t *testing.T) {
	for _, tt := range []struct {
		why   string
		err   error
		calls bool
	}{
		{"the store fails", errors.New("connection refused"), false},
		{"a wrapper's store has no leases", errors.ErrUnsupported, true},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(new(sharedLeases).of("a"))
				defer s.Close()
				s.faulty.Set(storetest.Lease, storetest.Fail(tt.err))
				end := s.clean(t, s.options())
				after(time.Hour)
				if n := s.faulty.Calls(storetest.Clean); (n > 0) != tt.calls || (s.log.Len() > 0) == tt.calls {
					t.Errorf("%d rounds; logged:\n%.300s", n, &s.log)
				}
				s.faulty.Heal()
				after(6 * time.Minute)
				if s.faulty.Calls(storetest.Clean) == 0 {
					t.Error("the store is back, and nobody cleans")
				}
				end()
			})
		})
	}
}
