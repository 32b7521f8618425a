package session_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// found runs Check and tells which of the wanted findings are missing, and
// which were not wanted.
func found(t *testing.T, s *session.RedisStore, want ...string) {
	t.Helper()
	err := s.Check(t.Context())
	var findings []error
	if joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		findings = joined.Unwrap()
	} else if err != nil {
		findings = []error{err}
	}
	for _, w := range want {
		n := 0
		for _, f := range findings {
			if strings.Contains(f.Error(), w) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d findings have %q; all: %v", n, w, err)
		}
	}
	if len(findings) != len(want) {
		t.Errorf("%d findings, want %d: %v", len(findings), len(want), err)
	}
}

func TestRedisCheck(t *testing.T) {
	primary, replicas := servers.RedisReplicas(t, 1)
	e := onServer(t, primary.Addr)
	set := func(name, value string) {
		t.Helper()
		if err := e.client.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("persistence", func(t *testing.T) {
		found(t, e.store, "persistence is off")
		set("save", "3600 1")
		found(t, e.store)
		set("save", "")
		set("appendonly", "yes")
		found(t, e.store)
	})
	t.Run("eviction", func(t *testing.T) {
		set("maxmemory-policy", "allkeys-lru")
		found(t, e.store) // without a limit, nothing is evicted
		set("maxmemory", "100mb")
		found(t, e.store, "maxmemory-policy is allkeys-lru")
		set("maxmemory-policy", "volatile-ttl")
		found(t, e.store, "maxmemory-policy is volatile-ttl")
		set("maxmemory-policy", "noeviction")
		found(t, e.store)
	})
	t.Run("replicas", func(t *testing.T) {
		two := session.NewRedisStore(e.client, &session.RedisOptions{Replicas: 2})
		found(t, two, "Replicas is 2, so every save fails")
		r := onServer(t, replicas[0].Addr)
		found(t, r.store, "read-only replica", "persistence is off")
		replicas[0].Kill()
		servers.Wait(t, "the replica to be missed", 10*time.Second, func(ctx context.Context) error {
			if err := e.store.Check(ctx); err == nil || !strings.Contains(err.Error(), "no replica is connected") {
				return errors.Join(errors.New("not yet"), err)
			}
			return nil
		})
	})
	t.Run("a user who may not ask", func(t *testing.T) {
		e.client.Do(t.Context(), "acl", "setuser", "app", "on", ">pw", "~*", "+@all", "-info", "-config")
		o := redisOptions(primary.Addr)
		o.Username, o.Password = "app", "pw"
		client := redis.NewClient(o)
		defer client.Close()
		found(t, session.NewRedisStore(client, nil), "+info")
	})
	t.Run("client", func(t *testing.T) {
		client := redis.NewClient(&redis.Options{Addr: primary.Addr, ReadTimeout: 100 * time.Millisecond})
		defer client.Close()
		found(t, session.NewRedisStore(client, &session.RedisOptions{Replicas: 1}),
			"no ContextTimeoutEnabled", "ReadTimeout (100ms)", "Replicas is 1")
	})
	t.Run("a remote host in clear", func(t *testing.T) {
		ip := outboundIP(t)
		server := servers.Redis(t, "--bind", ip, "127.0.0.1", "--protected-mode", "no", "--save", "3600 1")
		_, port, _ := net.SplitHostPort(server.Addr)
		r := onServer(t, net.JoinHostPort(ip, port))
		found(t, r.store, "not encrypted", "no replica")
	})
}

// outboundIP is an address of this machine that is not loopback.
func outboundIP(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("this machine has only loopback")
	return ""
}

func TestRedisCheckOther(t *testing.T) {
	e := onMiniredis(t)
	found(t, e.store) // for tests; it tells nothing about itself

	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": miniredis.RunT(t).Addr()}})
	defer ring.Close()
	found(t, session.NewRedisStore(ring, nil), "Ring", "no ContextTimeoutEnabled")

	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{miniredis.RunT(t).Addr()}})
	defer cluster.Close()
	found(t, session.NewRedisStore(cluster, nil), "ClusterStateReloadInterval", "no ContextTimeoutEnabled")

	for _, tt := range []struct{ hello, info, want string }{
		{"server redis version 6.0.16", "redis_version:6.0.16", "6.2 or newer"},
		{"server redis version 5.0.3", "redis_version:5.0.3", "6.2 or newer"},
		{"server redis version 6.2.11 dfly_version df-v1", "redis_version:6.2.11", "Dragonfly"},
		{"server redis version 6.3.4", "redis_version:6.3.4\r\nexecutable:/data/keydb-server", "KeyDB"},
		{"server garnet version 1", "redis_version:7.4.3", `"garnet"`},
		{"server valkey version 8.1.0", "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0", ""},
		{"server redis version 7.2.4", "redis_version:7.2.4\r\naof_enabled:0\r\nuptime_in_seconds:4000\r\nrdb_last_bgsave_time_sec:-1\r\nrdb_changes_since_last_save:3", "persistence is off"},
		{"server redis version 7.2.4", "redis_version:7.2.4\r\naof_enabled:0\r\nuptime_in_seconds:4000\r\nrdb_last_bgsave_time_sec:0\r\nrdb_changes_since_last_save:3", ""},
		{"server redis version 8.0", "redis_version:8.0.0\r\nconnected_slaves:0", "no replica"},
	} {
		addr := fakeServer(t, func(line string) string {
			switch strings.ToLower(line) {
			case "hello":
				fields := strings.Fields(tt.hello)
				var b strings.Builder
				for _, f := range fields {
					b.WriteString(bulk(f))
				}
				return "%" + string(rune('0'+len(fields)/2)) + "\r\n" + b.String()
			case "info":
				return bulk("# Server\r\n" + tt.info + "\r\n")
			case "config":
				return "-ERR unknown command 'CONFIG'\r\n"
			}
			return ""
		})
		client := redis.NewClient(redisOptions(addr))
		defer client.Close()
		t.Run(tt.hello, func(t *testing.T) {
			if tt.want == "" {
				found(t, session.NewRedisStore(client, nil))
				return
			}
			found(t, session.NewRedisStore(client, nil), tt.want)
		})
	}
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
