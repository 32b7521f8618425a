package memcachedstore_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/memcachedstore"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

// places gives each place of one set of servers a prefix of its own.
var places atomic.Int64

func newPrefix() string { return fmt.Sprintf("t%d:", places.Add(1)) }

// newStore opens a handle that the test closes.
func newStore(t testing.TB, servers []string, opts memcachedstore.Options) *memcachedstore.Store {
	t.Helper()
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
func onFakes(n int, replicated bool) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock := &storetest.Clock{}
		var addrs []string
		for range n {
			addrs = append(addrs, newFake(t, fakeConf{now: clock.Now}).Addr)
		}
		return storetest.Backend{
			Open: func() session.Store {
				return newStore(t, addrs, memcachedstore.Options{Now: clock.Now, Replicated: replicated})
			},
			MaxData: 1_000_000,
			Advance: clock.Advance,
		}
	}
}

func TestStore(t *testing.T) {
	t.Run("one server", func(t *testing.T) { storetest.Run(t, onFakes(1, false)) })
	t.Run("three servers", func(t *testing.T) { storetest.Run(t, onFakes(3, false)) })
}

func TestStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, onFakes(2, false)) }
