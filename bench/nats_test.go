package bench_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
)

// On NATS the backends are three nodes in this process, by where loads come from and
// what an acknowledged change survives. The store is on a node that does not
// lead, as two of three are.
func init() {
	for _, d := range []natsstore.Durability{natsstore.Memory, natsstore.File, natsstore.FileSync} {
		for _, c := range []natsstore.Consistency{natsstore.Strong, natsstore.Local} {
			backends = append(backends, place{fmt.Sprintf("nats-%v-%v", c, d), func(b *testing.B) backend {
				var follower *natsstore.Store
				for _, n := range startNodes(b, d) {
					s := openNode(b, n.Node, &natsstore.Options{Consistency: c})
					if s.Status(b.Context()).Leader != n.Name() {
						follower = s
					}
				}
				return backend{store: follower}
			}})
		}
	}
}

// benchNode is a node that can be started again.
type benchNode struct {
	*natsstore.Node
	opts natsstore.NodeOptions
}

// startNodes starts three nodes in this process.
func startNodes(b *testing.B, d natsstore.Durability) []*benchNode {
	b.Helper()
	var addrs []string
	for range 3 {
		addrs = append(addrs, "127.0.0.1:"+servers.FreePort(b))
	}
	var nodes []*benchNode
	for i, addr := range addrs {
		n := &benchNode{opts: natsstore.NodeOptions{Name: fmt.Sprint("n", i), Listen: addr, Voters: addrs,
			Dir: filepath.Join(b.TempDir(), fmt.Sprint("n", i)), Durability: d}}
		n.start(b)
		nodes = append(nodes, n)
	}
	return nodes
}

func (n *benchNode) start(b *testing.B) {
	b.Helper()
	node, err := natsstore.StartNode(&n.opts)
	if err != nil {
		b.Fatal(err)
	}
	n.Node = node
	b.Cleanup(func() { node.Close() })
}

// openNode opens a store, whose nodes all run, and waits until it is ready.
func openNode(b *testing.B, n *natsstore.Node, opts *natsstore.Options) *natsstore.Store {
	b.Helper()
	s, err := n.Open(opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if err := s.WaitReady(ctx); err != nil {
		b.Fatal(err)
	}
	return s
}

// wiped is measured once, however often the benchmark is called.
var wiped struct {
	once         sync.Once
	ready, first time.Duration
}

// BenchmarkWipedNode measures how long a node whose disk was wiped takes until
// it is ready again, where the others hold 100,000 sessions: from the start of
// its process's server to a full copy on its disk and in its memory.
func BenchmarkWipedNode(b *testing.B) {
	const sessions = 100_000
	wiped.once.Do(func() {
		nodes := startNodes(b, natsstore.File)
		s := openNode(b, nodes[0].Node, nil)
		at := time.Now()
		fillStore(b, s, sessions)
		wiped.first = time.Since(at)
		n := nodes[2]
		n.Close()
		if err := os.RemoveAll(n.opts.Dir); err != nil {
			b.Fatal(err)
		}
		at = time.Now()
		n.start(b)
		back := openNode(b, n.Node, &natsstore.Options{Consistency: natsstore.Local})
		wiped.ready = time.Since(at)
		if got := back.Status(b.Context()).Sessions; got != sessions {
			b.Fatalf("ready with %d sessions", got)
		}
	})
	if wiped.ready == 0 {
		b.Fatal("not measured")
	}
	b.ReportMetric(wiped.ready.Seconds(), "s/ready")
	b.ReportMetric(sessions/wiped.first.Seconds(), "saves/s")
	b.ReportMetric(0, "ns/op")
}

// fillStore makes sessions, many at once.
func fillStore(b *testing.B, s session.Store, n int) {
	b.Helper()
	const workers = 64
	now := time.Now()
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for next.Add(1) <= int64(n) && errs[w] == nil {
				_, errs[w] = s.Save(b.Context(), &session.Record{ID: session.ID(session.NewToken()), Created: now, Seen: now,
					Expires: now.Add(time.Hour), Deadline: now.Add(12 * time.Hour), Data: []byte(values)})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
}
