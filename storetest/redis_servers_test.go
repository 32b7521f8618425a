package storetest_test

import (
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
	"github.com/redis/go-redis/v9"
)

// The same on real servers; each backend has a prefix of its own on them.

func TestRedisServer(t *testing.T) {
	addr := servers.Redis(t).Addr
	onRedis(t, 0, func() redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	})
}

func TestRedisCluster(t *testing.T) {
	addrs := servers.RedisCluster(t).Addrs()
	open := func() redis.UniversalClient {
		return redis.NewClusterClient(&redis.ClusterOptions{
			Addrs: addrs, ContextTimeoutEnabled: true, ClusterStateReloadInterval: time.Second,
		})
	}
	t.Run("Replicas 0", func(t *testing.T) { onRedis(t, 0, open) })
	t.Run("Replicas 1", func(t *testing.T) { onRedis(t, 1, open) })
}

func TestRedisSentinel(t *testing.T) {
	s := servers.RedisSentinel(t, "")
	onRedis(t, 2, func() redis.UniversalClient {
		return redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: s.Master, SentinelAddrs: s.Addrs, ContextTimeoutEnabled: true,
		})
	})
}

// Nodes with copies of their own, over one server.
func TestCachedRedisServer(t *testing.T) {
	addr := servers.Redis(t).Addr
	fresh := func(t *testing.T) storetest.Backend {
		clock := &storetest.Clock{}
		return copying(redisPlace(t, clock, 0, func() redis.UniversalClient {
			return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
		}), clock)
	}
	t.Run("Store", func(t *testing.T) { storetest.Run(t, fresh) })
	t.Run("HTTP", func(t *testing.T) { storetest.RunHTTP(t, fresh) })
}

func onRedis(t *testing.T, replicas int, open func() redis.UniversalClient) {
	fresh := func(t *testing.T) storetest.Backend { return redisPlace(t, &storetest.Clock{}, replicas, open) }
	t.Run("Store", func(t *testing.T) { storetest.Run(t, fresh) })
	t.Run("HTTP", func(t *testing.T) { storetest.RunHTTP(t, fresh) })
}

func redisPlace(t *testing.T, clock *storetest.Clock, replicas int, open func() redis.UniversalClient) storetest.Backend {
	prefix := session.NewToken()[:8] + ":"
	return storetest.Backend{
		Open: func() session.Store {
			client := open()
			t.Cleanup(func() { client.Close() })
			return session.NewRedisStore(client, &session.RedisOptions{
				Prefix: prefix, Replicas: replicas, ReplicaTimeout: 2 * time.Second, Now: clock.Now,
			})
		},
		Advance: clock.Advance,
	}
}
