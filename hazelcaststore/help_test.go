package hazelcaststore_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/check"
	"github.com/distsession/session/storetest"
)

// places gives each place of one cluster a prefix of its own.
var places atomic.Int64

func newPrefix() string { return fmt.Sprintf("t%d:", places.Add(1)) }

// newStore opens a handle that the test closes. On a busy machine a second
// passes by itself.
func newStore(t testing.TB, members []string, opts hazelcaststore.Options) *hazelcaststore.Store {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	s, err := hazelcaststore.New(members, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onMembers are places whose handles talk to one member each, by turns, so that
// what one writes is read through the other.
func onMembers(addrs []string, opts hazelcaststore.Options) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock := &storetest.Clock{}
		opts := opts
		opts.Prefix, opts.Now = newPrefix(), clock.Now
		turn := 0
		return storetest.Backend{
			Open: func() session.Store {
				turn++
				return newStore(t, addrs[turn%len(addrs):][:1], opts)
			},
			MaxData: 1_000_000,
			Advance: clock.Advance, // the members' own clocks stay: the store must not rest on them
		}
	}
}

var (
	draft      = check.Draft
	save       = check.Save
	create     = check.Create
	load       = check.Load
	gone       = check.Gone
	failed     = check.Failed
	wantErr    = check.WantErr
	deleteUser = check.DeleteUser
)
