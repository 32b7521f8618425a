package memcachedstore_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/memcachedstore"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

// places gives each place of one set of servers a prefix of its own.
var places atomic.Int64

func newPrefix() string { return fmt.Sprintf("t%d:", places.Add(1)) }

// newStore opens a handle that the test closes. On a busy machine a second
// passes by itself.
func newStore(t testing.TB, servers []string, opts memcachedstore.Options) *memcachedstore.Store {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	s, err := memcachedstore.New(servers, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onServers are places on servers that run. Handles of replicated ones begin
// with different members.
func onServers(addrs []string, replicated bool) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock, prefix := &storetest.Clock{}, newPrefix()
		return storetest.Backend{
			Open: func() session.Store {
				return newStore(t, addrs, memcachedstore.Options{Prefix: prefix, Replicated: replicated, Now: clock.Now})
			},
			MaxData: 1_000_000,
			Advance: clock.Advance, // the servers' own clocks stay: the store must not rest on them
		}
	}
}

// onFakes are places on servers in this process, whose clocks move with the
// store's.
func onFakes(n int) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock := &storetest.Clock{}
		var addrs []string
		for range n {
			addrs = append(addrs, newFake(t, fakeConf{now: clock.Now}).Addr)
		}
		return storetest.Backend{
			Open:    func() session.Store { return newStore(t, addrs, memcachedstore.Options{Now: clock.Now}) },
			MaxData: 1_000_000,
			Advance: clock.Advance,
		}
	}
}

// nobody is where no server listens: a connection is refused. (A proxy that is
// cut takes it first, and what was sent may have arrived.)
const nobody = "127.0.0.1:1"

// onFakeMembers are places on two members that have the same items. The first
// of each handle's is down.
func onFakeMembers(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	f := newFake(t, fakeConf{now: clock.Now})
	return storetest.Backend{
		Open: func() session.Store {
			return newStore(t, []string{nobody, f.Addr}, memcachedstore.Options{Replicated: true, Now: clock.Now})
		},
		Advance: clock.Advance,
	}
}

func TestStore(t *testing.T) {
	t.Run("one server", func(t *testing.T) { storetest.Run(t, onFakes(1)) })
	t.Run("three servers", func(t *testing.T) { storetest.Run(t, onFakes(3)) })
	t.Run("members, one down", func(t *testing.T) { storetest.Run(t, onFakeMembers) })
}

func TestStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, onFakes(2)) }

// A fourth server takes a quarter of the keys. What lay there is signed out,
// the rest goes on, and what signs in now works.
func TestFourthServerJoins(t *testing.T) {
	var addrs []string
	for range 4 {
		addrs = append(addrs, newFake(t, fakeConf{}).Addr)
	}
	three := newStore(t, addrs[:3], memcachedstore.Options{})
	var anonymous, users []string
	for i := range 400 {
		_, token := create(t, three, "")
		anonymous = append(anonymous, token)
		_, token = create(t, three, fmt.Sprint("user", i))
		users = append(users, token)
	}
	four := newStore(t, addrs, memcachedstore.Options{})
	for _, tt := range []struct {
		name     string
		tokens   []string
		from, to int // of 400 that live on
	}{
		{"anonymous sessions, 75 %", anonymous, 260, 340},
		{"sessions of users, 56 %", users, 180, 270},
	} {
		live := 0
		for _, token := range tt.tokens {
			switch rec, err := four.Load(t.Context(), token); {
			case err == nil:
				live++
				save(t, four, rec)
			case !errors.Is(err, session.ErrNotFound):
				t.Errorf("Load: %v", err)
			}
		}
		if live < tt.from || live > tt.to {
			t.Errorf("%s: %d of %d live on", tt.name, live, len(tt.tokens))
		}
	}
	for i := range 50 {
		_, token := create(t, four, fmt.Sprint("user", i))
		load(t, four, token)
	}
}

// Two nodes whose clocks are a minute apart share their sessions, and each ends
// them by its own clock.
func TestNodesClocksDiffer(t *testing.T) {
	now := time.Now()
	f := newFake(t, fakeConf{now: func() time.Time { return now }})
	node := func(off time.Duration) *memcachedstore.Store {
		return newStore(t, []string{f.Addr}, memcachedstore.Options{Now: func() time.Time { return now.Add(off) }})
	}
	nodes := []*memcachedstore.Store{node(0), node(time.Minute), node(-time.Minute)}
	offs := []time.Duration{0, time.Minute, -time.Minute}
	for i, a := range nodes {
		for j, b := range nodes {
			rec, token := draft("ann", now.Add(offs[i]))
			save(t, a, rec)
			rec = load(t, b, token)
			save(t, b, rec)
			save(t, a, load(t, a, token))
			if err := b.Touch(t.Context(), rec.ID, now.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
				t.Errorf("%d, %d: touch: %v", i, j, err)
			}
			deleteUser(t, b, "ann", "", 1)
			gone(t, a, token, "after DeleteUser on the other node")

			short, shortToken := draft("ann", now.Add(offs[i]))
			short.Expires = now.Add(30 * time.Second)
			save(t, a, short)
			_, err := b.Load(t.Context(), shortToken)
			if over := offs[j] > 30*time.Second; errors.Is(err, session.ErrNotFound) != over {
				t.Errorf("%d, %d: half a minute before its end: %v", i, j, err)
			}
			deleteUser(t, nodes[2], "ann", "", 1) // by whose clock it is live
		}
	}
}
