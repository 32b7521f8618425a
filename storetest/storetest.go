// Package storetest holds a session store to its promises.
//
// A backend is finished when both suites pass, with the race detector, on the
// real server:
//
//	func TestStore(t *testing.T) { storetest.Run(t, fresh) }
//	func TestHTTP(t *testing.T)  { storetest.RunHTTP(t, fresh) }
//
//	func fresh(t *testing.T) storetest.Backend {
//		var clock storetest.Clock
//		s := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
//		return storetest.Backend{
//			Open:    func() session.Store { return s },
//			Advance: clock.Advance,
//		}
//	}
//
// Every promise is one subtest, and its name is the promise. What a store
// cannot do at all (it is no session.Lister) is skipped and says so; a promise
// that a backend cannot keep stands in Backend.Skip with the reason.
//
// [Faulty] is a store around a store that fails, stalls or conflicts on
// demand, for the tests of programs that use the library: what does my site
// show while the session store is away?
package storetest

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Backend is one place where sessions are kept, empty at first: a database, a
// key prefix, a folder, a set of keys.
type Backend struct {
	// Open returns another node's handle on the same sessions. The suite closes
	// it with session.Close. Handles may share what they hold: a store that
	// lives in this process returns itself.
	Open func() session.Store

	// ClientSide says that the token is the sealed session itself. Such a store
	// cannot order two responses, so the promises that need a comparison
	// (versions, touch, lists) are not asked of it, and others are.
	ClientSide bool

	// MaxData is how many bytes of values a record may have here. If 0, it is
	// 64 KiB, and more is not tried.
	MaxData int

	// Advance moves the clock of every handle forward. The clock starts at the
	// present; a Clock is one. If nil, the tests wait: about a second for
	// each promise about time.
	Advance func(time.Duration)

	// MaxStale is how long a handle may answer from a copy of its own. The tests
	// let it pass before they ask one handle for what another one has ended, and
	// nowhere else: a client reads its own writes at once, on every handle
	// (session.AtLeaster). If 0, all handles see everything at once.
	MaxStale time.Duration

	// Skip names promises that this backend cannot keep, and why: the names are
	// the subtests', with spaces. A name that is no promise fails the run.
	Skip map[string]string
}

// Clock is a clock that starts at the present, runs on, and can be moved. Its
// methods go into a backend's options and into Backend.Advance.
type Clock struct{ moved atomic.Int64 }

// Now is the present, moved by the sum of all Advances.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.moved.Load())) }

// Advance moves the clock forward.
func (c *Clock) Advance(d time.Duration) { c.moved.Add(int64(d)) }

// Run tests every promise of session.Store and of each ability that the store
// has. It calls fresh once for every subtest; each call returns a place of its
// own, with keys of its own. With -short there are fewer rounds of each race.
func Run(t *testing.T, fresh func(t *testing.T) Backend) {
	run(t, fresh, storePromises)
}

// RunHTTP tests whole journeys: browsers with cookie jars, one or two servers,
// a session.Manager in each, and the store behind them.
func RunHTTP(t *testing.T, fresh func(t *testing.T) Backend) {
	run(t, fresh, httpPromises)
}

// A promise is one subtest.
type promise struct {
	name string
	test func(t *place)
}

// A suite holds the promises of all stores, and those that only one of the two
// kinds can keep.
type suite struct {
	every, serverSide, clientSide []promise
}

func (s *suite) promises(clientSide bool) []promise {
	if clientSide {
		return slices.Concat(s.every, s.clientSide)
	}
	return slices.Concat(s.every, s.serverSide)
}

func run(t *testing.T, fresh func(t *testing.T) Backend, s *suite) {
	var first Backend
	t.Run("every name in Skip is a promise", func(t *testing.T) {
		first = fresh(t)
		if err := checkSkip(first); err != nil {
			t.Fatal(err)
		}
	})
	for _, p := range s.promises(first.ClientSide) {
		t.Run(p.name, func(t *testing.T) {
			b := fresh(t)
			if why, skip := b.Skip[p.name]; skip {
				t.Skip(why)
			}
			p.test(newPlace(t, b, func() Backend { return fresh(t) }))
		})
	}
}

// checkSkip finds what is skipped without need: a promise that was renamed, or
// one that is not asked of this kind of store.
func checkSkip(b Backend) error {
	known := map[string]bool{}
	for _, s := range []*suite{storePromises, httpPromises} {
		for _, p := range s.promises(b.ClientSide) {
			if known[p.name] {
				panic("storetest: two promises have one name: " + p.name)
			}
			known[p.name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Skip)) {
		if !known[name] {
			return fmt.Errorf("Backend.Skip has %q, which is no promise of such a store; correct the name or remove it", name)
		}
		if b.Skip[name] == "" {
			return fmt.Errorf("Backend.Skip[%q] gives no reason", name)
		}
	}
	return nil
}
