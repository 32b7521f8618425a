package natsstore_test

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/natsstore"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// runCluster starts three servers that run by themselves and know each other.
func runCluster(t *testing.T) (addrs []string, running []*server.Server) {
	t.Helper()
	var routes []*url.URL
	for range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + servers.FreePort(t)})
	}
	for i, route := range routes {
		var port int
		fmt.Sscan(route.Port(), &port)
		s, err := server.NewServer(&server.Options{ServerName: fmt.Sprint("s", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
			Routes: routes, Cluster: server.ClusterOpts{Name: "outside", Host: "127.0.0.1", Port: port, NoAdvertise: true}})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		running = append(running, s)
	}
	for _, s := range running {
		if !s.ReadyForConnections(patience) {
			t.Fatal("the server does not start")
		}
		addrs = append(addrs, s.Addr().String())
	}
	until(t, "a leader who knows all", func() bool {
		return slices.ContainsFunc(running, func(s *server.Server) bool {
			return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(running)
		})
	})
	return addrs, running
}

// On a cluster that is there the bucket has three replicas, and sessions outlive
// the server that leads them.
func TestServersInACluster(t *testing.T) {
	many(t)
	t.Parallel()
	addrs, running := runCluster(t)
	s := openURL(t, "nats://"+addrs[0]+","+addrs[1]+","+addrs[2])
	js, err := jetstream.New(connect(t, addrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_sessions")
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	if info.Config.Replicas != 3 || info.Cluster == nil {
		t.Fatalf("the bucket has %d replicas, cluster %v", info.Config.Replicas, info.Cluster)
	}
	_, token := create(t, s, "ann")
	for _, server := range running {
		if server.Name() == info.Cluster.Leader {
			server.Shutdown()
			server.WaitForShutdown()
		}
	}
	goesOn(t, s, token)
}

// goesOn waits until a session can be changed; meanwhile it is not gone.
func goesOn(t *testing.T, s session.Store, token string) {
	t.Helper()
	until(t, "a change", func() bool {
		rec, err := s.Load(t.Context(), token)
		if err == nil {
			_, err = s.Save(t.Context(), rec)
		}
		if errors.Is(err, session.ErrNotFound) {
			t.Fatal("the session is gone")
		}
		return err == nil
	})
}

// How many replicas a bucket has is a promise.
func TestReplicasMustFit(t *testing.T) {
	many(t)
	t.Parallel()
	addrs, _ := runCluster(t)
	nc := connect(t, addrs[0])
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		has, ask int
		want     string
		why      string
	}{
		{3, 0, "", "three are the default"},
		{1, 1, "", "one, if one says so"},
		{1, 0, "--replicas=3", "one in a cluster ends with its server"},
		{2, 0, "--replicas=3", "two stop when either is down"},
		{1, 3, "--replicas=3", "fewer than asked for"},
		{3, 1, "--replicas=1", "more than asked for"},
	} {
		bucket := fmt.Sprintf("has%d-asks%d", tt.has, tt.ask)
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KV_" + bucket, Subjects: []string{"$KV." + bucket + ".>"},
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowMsgTTL: true, Replicas: tt.has}); err != nil {
			t.Fatalf("%s: %v", tt.why, err)
		}
		s, err := natsstore.New(t.Context(), nc, &natsstore.Options{Bucket: bucket, Replicas: tt.ask})
		if err == nil {
			s.Close()
		}
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, session.ErrConfig) || !contains(err, tt.want)) {
			t.Errorf("%d replicas, %d asked for: %v; want %q: %s", tt.has, tt.ask, err, tt.want, tt.why)
		}
	}
}

// Five voters go on without two of them.
func TestFiveVoters(t *testing.T) {
	many(t)
	t.Parallel()
	nodes := startNodes(t, 5)
	s := open(t, nodes[0], nil)
	_, token := create(t, s, "ann")
	nodes[3].Close()
	nodes[4].Close()
	goesOn(t, s, token)
}
