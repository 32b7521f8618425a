package servers

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

const redisHint = "install the package redis-server"

// RedisServer is one Redis server.
type RedisServer struct {
	*Process
	Addr   string
	Client *redis.Client // for the test's own commands
}

// Redis starts a server; conf are arguments such as "--requirepass", "secret".
func Redis(t testing.TB, conf ...string) *RedisServer {
	t.Helper()
	return startRedis(t, func() []string { return conf })
}

// startRedis asks for conf again when the server did not start: somebody else
// may have taken a port.
func startRedis(t testing.TB, conf func() []string) *RedisServer {
	t.Helper()
	program := Require(t, "redis-server", redisHint)
	for range 5 {
		port, conf := FreePort(t), conf()
		args := append([]string{
			program, "--port", port, "--bind", "127.0.0.1",
			"--save", "", "--appendonly", "no",
			// A replica is in step as soon as it can be.
			"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1",
		}, conf...)
		s := &RedisServer{Process: start(t, t.TempDir(), args...), Addr: "127.0.0.1:" + port}
		var password string
		if i := slices.Index(conf, "--requirepass"); i >= 0 {
			password = conf[i+1]
		}
		s.Client = client(t, s.Addr, password)
		if s.wait(t) {
			return s
		}
	}
	t.Fatal("redis-server does not start")
	return nil
}

// Restart starts the server again after Kill. Without persistence it is empty.
func (s *RedisServer) Restart(t testing.TB) {
	t.Helper()
	s.run(t)
	if !s.wait(t) {
		t.Fatalf("redis-server at %s does not start again", s.Addr)
	}
}

// wait waits until the server answers, and tells whether it runs.
func (s *RedisServer) wait(t testing.TB) bool {
	t.Helper()
	return waitFor(t, s.Process, "redis-server at "+s.Addr, func(ctx context.Context) error {
		// The client logs every failed dial; this does not.
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
		if err != nil {
			return err
		}
		conn.Close()
		return s.Client.Ping(ctx).Err()
	})
}

func client(t testing.TB, addr, password string) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr: addr, Password: password, ContextTimeoutEnabled: true, DisableIdentity: true, Protocol: 2,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 4,
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// must ends the test on an error of the set-up.
func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// RedisReplicas starts a primary with n replicas that are in step.
func RedisReplicas(t testing.TB, n int, conf ...string) (*RedisServer, []*RedisServer) {
	t.Helper()
	primary := Redis(t, conf...)
	replicas := make([]*RedisServer, n)
	for i := range replicas {
		replicas[i] = Redis(t, append(slices.Clone(conf), "--replicaof", "127.0.0.1 "+primary.port())...)
	}
	primary.waitReplicas(t, n)
	return primary, replicas
}

func (s *RedisServer) port() string { return s.Addr[len("127.0.0.1:"):] }

// waitReplicas waits until n replicas have acknowledged what was in the primary's
// stream when the wait began. (One that is merely connected may be a second
// away from its first acknowledgement; a write and WAIT would do on a single
// server, but a primary of a Cluster that has no slots takes none.)
func (s *RedisServer) waitReplicas(t testing.TB, n int) {
	t.Helper()
	want := int64(-1)
	Wait(t, "replicas of "+s.Addr, startTimeout, func(ctx context.Context) error {
		info, err := s.Client.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		offset, acked := replication(info)
		if want < 0 {
			want = max(offset, 1) // 0 is that of a replica which has acknowledged nothing
		}
		got := 0
		for _, at := range acked {
			if at >= want {
				got++
			}
		}
		if got < n {
			return fmt.Errorf("%d of %d replicas; the primary was at %d, they are at %v", got, n, want, acked)
		}
		return nil
	})
}

// replication reads how far a primary's stream has come, and what of it each
// replica that is in step has acknowledged.
func replication(info string) (offset int64, acked []int64) {
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "master_repl_offset":
			offset, _ = strconv.ParseInt(value, 10, 64)
		case strings.HasPrefix(name, "slave") && strings.Contains(value, "state=online"):
			_, at, _ := strings.Cut(value, "offset=")
			at, _, _ = strings.Cut(at, ",")
			n, _ := strconv.ParseInt(at, 10, 64)
			acked = append(acked, n)
		}
	}
	return offset, acked
}
