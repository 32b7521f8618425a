package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisSentinels are a primary, two replicas and three sentinels.
type RedisSentinels struct {
	Master string   // the name that the sentinels know the primary by
	Addrs  []string // of the sentinels
	Nodes  []*RedisServer

	sentinels []*redis.Client
}

// RedisSentinel starts them. A primary that does not answer for a second is
// replaced. password, unless it is "", is that of the sentinels; conf goes to
// the servers.
func RedisSentinel(t testing.TB, password string, conf ...string) *RedisSentinels {
	t.Helper()
	program := Require(t, "redis-server", redisHint)
	s := &RedisSentinels{Master: "mymaster"}
	primary, replicas := RedisReplicas(t, 2, conf...)
	s.Nodes = append(replicas, primary)
	for range 3 {
		port := FreePort(t)
		dir := t.TempDir()
		file := filepath.Join(dir, "sentinel.conf")
		lines := []string{
			"port " + port, "bind 127.0.0.1", "dir " + dir,
			"sentinel monitor mymaster 127.0.0.1 " + primary.port() + " 2",
			"sentinel down-after-milliseconds mymaster 1000",
			"sentinel failover-timeout mymaster 6000",
			"sentinel parallel-syncs mymaster 2",
		}
		if password != "" {
			lines = append(lines, "requirepass "+password)
		}
		must(t, "write sentinel.conf", os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
		start(t, dir, program, file, "--sentinel")
		s.Addrs = append(s.Addrs, "127.0.0.1:"+port)
		s.sentinels = append(s.sentinels, client(t, "127.0.0.1:"+port, password))
	}
	for _, c := range s.sentinels {
		Wait(t, "sentinel", startTimeout, func(ctx context.Context) error {
			m, err := c.Do(ctx, "sentinel", "master", s.Master).Slice()
			text := fmt.Sprint(m)
			if err == nil && (!strings.Contains(text, "num-other-sentinels 2") || !strings.Contains(text, "num-slaves 2")) {
				err = errors.New(text)
			}
			return err
		})
	}
	return s
}

// Primary is the server that the sentinels name.
func (s *RedisSentinels) Primary(t testing.TB) *RedisServer {
	t.Helper()
	var found *RedisServer
	Wait(t, "primary", startTimeout, func(ctx context.Context) error {
		addr, err := s.sentinels[0].Do(ctx, "sentinel", "get-master-addr-by-name", s.Master).StringSlice()
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if n.Addr == net.JoinHostPort(addr[0], addr[1]) {
				found = n
				return nil
			}
		}
		return fmt.Errorf("%q is none of the servers", addr)
	})
	return found
}

// WaitFailover waits until the sentinels name another primary than old, and it
// takes writes.
func (s *RedisSentinels) WaitFailover(t testing.TB, old *RedisServer) *RedisServer {
	t.Helper()
	var now *RedisServer
	Wait(t, "failover", 30*time.Second, func(ctx context.Context) error {
		now = s.Primary(t)
		if now == old {
			return errors.New("still the same primary")
		}
		return now.Client.Set(ctx, "servers:probe", 1, time.Second).Err()
	})
	return now
}

// Revive starts a server again after Kill, as a replica of primary. (The
// sentinels would see to it too, ten seconds later.)
func (s *RedisSentinels) Revive(t testing.TB, n, primary *RedisServer) {
	t.Helper()
	n.Restart(t)
	must(t, "replicaof", n.Client.ReplicaOf(context.Background(), "127.0.0.1", primary.port()).Err())
	primary.waitReplicas(t, len(s.Nodes)-1)
}
