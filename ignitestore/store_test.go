package ignitestore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

// places gives each place of one cluster a prefix of its own.
var places atomic.Int64

func newPrefix() string { return fmt.Sprintf("t%d:", places.Add(1)) }

// newStore opens a handle that the test closes. On a busy machine a second
// passes by itself.
func newStore(t testing.TB, addrs []string, opts ignitestore.Options) *ignitestore.Store {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	s, err := ignitestore.New(addrs, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onMembers are places whose handles talk to one member each, by turns, so
// that what one writes is read through the other. The members' own clocks stay
// where they are: the store must not rest on them.
func onMembers(addrs []string) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend { return byTurns(t, addrs, &storetest.Clock{}) }
}

// onFake is a place on a cluster in this process, whose clock moves with the
// store's.
func onFake(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	return byTurns(t, newFake(t, fakeConf{now: clock.Now, members: 2}).Addrs, clock)
}

func byTurns(t *testing.T, addrs []string, clock *storetest.Clock) storetest.Backend {
	prefix, turn := newPrefix(), 0
	return storetest.Backend{
		Open: func() session.Store {
			turn++
			return newStore(t, addrs[turn%len(addrs):][:1], ignitestore.Options{Prefix: prefix, Now: clock.Now})
		},
		MaxData: 1_000_000,
		Advance: clock.Advance,
	}
}

// onFakeWithOneDown is a place whose handles list a member first that is down.
func onFakeWithOneDown(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	f := newFake(t, fakeConf{now: clock.Now})
	down := faults.NewProxy(t, f.Addrs[0])
	down.Cut()
	return storetest.Backend{
		Open: func() session.Store {
			return newStore(t, []string{down.Addr, f.Addrs[0]}, ignitestore.Options{Now: clock.Now})
		},
		Advance: clock.Advance,
	}
}

func TestStore(t *testing.T) {
	t.Run("two members", func(t *testing.T) { storetest.Run(t, onFake) })
	t.Run("one of two down", func(t *testing.T) { storetest.Run(t, onFakeWithOneDown) })
}

func TestStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, onFake) }
