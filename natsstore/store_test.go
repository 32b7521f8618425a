package natsstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
	"github.com/distsession/session/storetest"
)

// places gives each place of one cluster a bucket of its own.
var places atomic.Int64

func newBucket() string { return fmt.Sprintf("t%d", places.Add(1)) }

func startNode(t testing.TB, opts *natsstore.NodeOptions) *natsstore.Node {
	t.Helper()
	n, err := natsstore.StartNode(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// synced is a store that has heard of everything before it answers. The suites
// ask what one handle sees of another's changes at once, which Local only does
// within MaxStale; all else they ask of Local as it is.
type synced struct{ *natsstore.Store }

func (s synced) Load(ctx context.Context, token string) (*session.Record, error) {
	if err := s.Sync(ctx); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return s.Store.Load(ctx, token)
}

// on are places on these nodes, whose handles begin with different ones.
func on(nodes []*natsstore.Node, c natsstore.Consistency) func(t *testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock, bucket := &storetest.Clock{}, newBucket()
		next := 0
		return storetest.Backend{
			Open: func() session.Store {
				s := open(t, nodes[next%len(nodes)], &natsstore.Options{Bucket: bucket, Consistency: c, Now: clock.Now})
				next++
				if c == natsstore.Local {
					return synced{s}
				}
				return s
			},
			MaxData: 1_000_000,
			Advance: clock.Advance, // the servers' own clocks stay: the store must not rest on them
		}
	}
}

func open(t testing.TB, n *natsstore.Node, opts *natsstore.Options) *natsstore.Store {
	t.Helper()
	s, err := n.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

// startNodes starts so many voters.
func startNodes(t testing.TB, n int, change ...func(*natsstore.NodeOptions)) []*natsstore.Node {
	t.Helper()
	if n == 1 {
		return []*natsstore.Node{startNode(t, &natsstore.NodeOptions{Durability: natsstore.Memory})}
	}
	var addrs []string
	for range n {
		addrs = append(addrs, "127.0.0.1:"+servers.FreePort(t))
	}
	var nodes []*natsstore.Node
	for i, addr := range addrs {
		o := &natsstore.NodeOptions{Name: fmt.Sprint("n", i), Listen: addr, Voters: addrs, Durability: natsstore.Memory}
		for _, f := range change {
			f(o)
		}
		nodes = append(nodes, startNode(t, o))
	}
	return nodes
}

func TestStore(t *testing.T) {
	for _, tt := range []struct {
		nodes       int
		consistency natsstore.Consistency
		http        bool
	}{
		{1, natsstore.Strong, true},
		{1, natsstore.Local, false},
		{3, natsstore.Strong, false},
		{3, natsstore.Local, true},
	} {
		t.Run(fmt.Sprintf("%d nodes, %v", tt.nodes, tt.consistency), func(t *testing.T) {
			if tt.nodes > 1 {
				many(t)
			}
			places := on(startNodes(t, tt.nodes), tt.consistency)
			t.Run("store", func(t *testing.T) { storetest.Run(t, places) })
			if tt.http {
				t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, places) })
			}
		})
	}
}
