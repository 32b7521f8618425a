package servers_test

import (
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
)

func TestRedisServers(t *testing.T) {
	at := time.Now()
	lap := func(what string) { t.Logf("%s: %v", what, time.Since(at).Round(time.Millisecond)); at = time.Now() }
	servers.Redis(t)
	lap("standalone")
	c := servers.RedisCluster(t)
	lap("cluster")
	n := c.AddPrimary(t)
	lap("add")
	replica := c.AddReplica(t, n) // of a primary that has no slots, and takes no writes
	c.Remove(t, replica)
	lap("add a replica and remove it")
	from := c.Primaries(t)[0]
	c.MoveSlots(t, from, n, c.SlotsOf(t, from)[:100], nil)
	lap("move 100 slots")
	c.MoveSlots(t, n, from, c.SlotsOf(t, n), nil)
	c.Remove(t, n)
	lap("remove")
	c.Kill(c.Primaries(t)[1])
	c.WaitFailover(t)
	lap("failover")
	s := servers.RedisSentinel(t, "")
	lap("sentinel")
	old := s.Primary(t)
	old.Kill()
	s.WaitFailover(t, old)
	lap("sentinel failover")
}
