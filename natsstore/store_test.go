package natsstore_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
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

func (s synced) LoadAtLeast(ctx context.Context, token string, version int64) (*session.Record, error) {
	if err := s.Sync(ctx); err != nil && ctx.Err() == nil {
		return nil, err
	}
	return s.Store.LoadAtLeast(ctx, token, version)
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

// settled begins each place with one save. nats-server 2.15.2 makes a map at the
// first writes of a stream in which a version is expected, and a follower in the
// same process reads it without the lock meanwhile: a data race of its own
// (applyStreamMsgOp, batchStagedDiff.commit), which the race detector reports.
func settled(fresh func(t *testing.T) storetest.Backend) func(t *testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		b := fresh(t)
		s := b.Open()
		rec, _ := create(t, s, "")
		save(t, s, next(rec))
		if err := s.Delete(t.Context(), rec.ID); err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func next(rec *session.Record) *session.Record {
	after := *rec
	after.Version++
	return &after
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
	t.Run("one node", func(t *testing.T) {
		nodes := startNodes(t, 1)
		t.Run("strong", func(t *testing.T) { storetest.Run(t, on(nodes, natsstore.Strong)) })
		for _, c := range []natsstore.Consistency{natsstore.Strong, natsstore.Local} {
			t.Run(c.String()+", over HTTP", func(t *testing.T) { storetest.RunHTTP(t, on(nodes, c)) })
		}
	})
	t.Run("three nodes", func(t *testing.T) {
		many(t)
		nodes := startNodes(t, 3)
		t.Run("local", func(t *testing.T) { storetest.Run(t, settled(on(nodes, natsstore.Local))) })
		t.Run("a visit over HTTP", func(t *testing.T) { visit(t, nodes) })
	})
}

// visit signs in, counts and signs out, each request on the next node, as if a
// balancer took turns.
func visit(t *testing.T, nodes []*natsstore.Node) {
	count, bucket := session.NewKey[int]("count"), newBucket()
	for _, c := range []natsstore.Consistency{natsstore.Strong, natsstore.Local} {
		var apps []http.Handler
		for _, n := range nodes {
			m, err := session.New(open(t, n, &natsstore.Options{Bucket: bucket, Consistency: c}), &session.Options{
				Transport: &session.HeaderTransport{}, Timeout: 10 * time.Second, // a busy machine is no failure
			})
			if err != nil {
				t.Fatal(err)
			}
			apps = append(apps, m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s, err := session.From(r.Context())
				if err != nil {
					t.Error(err)
					return
				}
				switch r.URL.Path {
				case "/in":
					s.SetUser("ann")
				case "/count":
					count.Update(s, func(n int) int { return n + 1 })
				case "/out":
					s.Destroy()
				}
				n, _ := count.Get(s)
				fmt.Fprintf(w, "%s %d", s.User(), n)
			})))
		}
		turn, token := 0, ""
		get := func(path string) string {
			r := httptest.NewRequest("POST", path, nil)
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			w := httptest.NewRecorder()
			apps[turn%len(apps)].ServeHTTP(w, r)
			turn++
			if got := w.Header().Get("Session-Token"); got != "" {
				token = got
			}
			return fmt.Sprint(w.Code, " ", w.Body)
		}
		everywhere := func(want string) {
			t.Helper()
			until(t, fmt.Sprintf("%q on all nodes, %v", want, c), func() bool {
				for range nodes {
					if get("/") != want {
						return false
					}
				}
				return true
			})
		}
		get("/in")
		for range 9 {
			get("/count") // also where the copy does not have the last one yet
		}
		everywhere("200 ann 9")
		get("/out")
		everywhere("200  0")
	}
}
