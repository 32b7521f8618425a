package servers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const slots = 16384

// RedisClusterServers are the servers of a Redis Cluster.
type RedisClusterServers struct {
	Nodes []*RedisServer // those that run; primaries and replicas change places
	ids   map[*RedisServer]string
	bus   map[*RedisServer]string // their ports for each other
}

// RedisCluster starts three primaries with a replica each. A primary that does
// not answer for a second and a half is replaced.
func RedisCluster(t testing.TB, conf ...string) *RedisClusterServers {
	t.Helper()
	c := &RedisClusterServers{ids: map[*RedisServer]string{}, bus: map[*RedisServer]string{}}
	for range 6 {
		c.start(t, conf...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for i, n := range c.Nodes {
		c.ids[n] = n.Client.ClusterMyID(ctx).Val()
		// Or the primaries have to agree on an order first.
		must(t, "set config epoch", n.Client.Do(ctx, "cluster", "set-config-epoch", i+1).Err())
		if i < 3 {
			must(t, "add slots", n.Client.Do(ctx, "cluster", "addslotsrange", i*slots/3, (i+1)*slots/3-1).Err())
		}
		if i > 0 {
			c.meet(t, ctx, n)
		}
	}
	c.waitKnown(t)
	for i, n := range c.Nodes[3:] {
		must(t, "replicate", n.Client.ClusterReplicate(ctx, c.ids[c.Nodes[i]]).Err())
	}
	c.WaitReplicas(t)
	return c
}

func (c *RedisClusterServers) start(t testing.TB, conf ...string) *RedisServer {
	t.Helper()
	var bus string
	n := startRedis(t, func() []string {
		bus = FreePort(t)
		return append([]string{
			"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "1500",
			"--cluster-allow-replica-migration", "no",
		}, conf...)
	})
	c.Nodes = append(c.Nodes, n)
	c.bus[n] = bus
	return n
}

func (c *RedisClusterServers) meet(t testing.TB, ctx context.Context, n *RedisServer) {
	t.Helper()
	must(t, "meet", n.Client.Do(ctx, "cluster", "meet", "127.0.0.1", c.Nodes[0].port(), c.bus[c.Nodes[0]]).Err())
}

// waitKnown waits until every node knows every other.
func (c *RedisClusterServers) waitKnown(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		Wait(t, "cluster", startTimeout, func(ctx context.Context) error {
			info, err := n.Client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) {
				return errors.New(info)
			}
			return nil
		})
	}
}

// WaitReplicas waits until every node sees three primaries of the original
// layout with a replica that is in step.
func (c *RedisClusterServers) WaitReplicas(t testing.TB) {
	t.Helper()
	for _, p := range c.Primaries(t) {
		p.waitReplicas(t, 1)
	}
	for _, n := range c.Nodes {
		Wait(t, "replicas", startTimeout, func(ctx context.Context) error {
			shards, err := n.SlotRanges(ctx)
			if err != nil {
				return err
			}
			for _, s := range shards {
				if len(s.Nodes) < 2 {
					return fmt.Errorf("%s knows no replica of slot %d", n.Addr, s.Start)
				}
			}
			return nil
		})
	}
}

// Addrs are the addresses of the nodes that run.
func (c *RedisClusterServers) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		addrs[i] = n.Addr
	}
	return addrs
}

// Primaries are the nodes that have slots, in the order of the slots.
func (c *RedisClusterServers) Primaries(t testing.TB) []*RedisServer {
	t.Helper()
	var found []*RedisServer
	Wait(t, "primaries", startTimeout, func(ctx context.Context) error {
		found = nil
		ranges, err := c.Nodes[0].SlotRanges(ctx)
		if err != nil {
			return err
		}
		slices.SortFunc(ranges, func(a, b redis.ClusterSlot) int { return a.Start - b.Start })
		for _, r := range ranges {
			i := slices.IndexFunc(c.Nodes, func(n *RedisServer) bool { return n.Addr == r.Nodes[0].Addr })
			if i < 0 {
				return fmt.Errorf("no server at %s", r.Nodes[0].Addr)
			}
			if !slices.Contains(found, c.Nodes[i]) {
				found = append(found, c.Nodes[i])
			}
		}
		return nil
	})
	return found
}

// AddPrimary adds an empty primary.
func (c *RedisClusterServers) AddPrimary(t testing.TB, conf ...string) *RedisServer {
	t.Helper()
	n := c.start(t, conf...)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c.ids[n] = n.Client.ClusterMyID(ctx).Val()
	c.meet(t, ctx, n)
	c.waitKnown(t)
	return n
}

// AddReplica adds a replica of primary and waits until it is in step.
func (c *RedisClusterServers) AddReplica(t testing.TB, primary *RedisServer, conf ...string) *RedisServer {
	t.Helper()
	n := c.AddPrimary(t, conf...)
	must(t, "replicate", n.Client.ClusterReplicate(context.Background(), c.ids[primary]).Err())
	primary.waitReplicas(t, 1)
	return n
}

// Remove takes a node that has no slots out of the cluster and ends it.
func (c *RedisClusterServers) Remove(t testing.TB, n *RedisServer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c.drop(n)
	for _, other := range c.Nodes {
		must(t, "forget", other.Client.ClusterForget(ctx, c.ids[n]).Err())
	}
	n.Kill()
}

// ReplicaOf is the replica of a primary.
func (c *RedisClusterServers) ReplicaOf(t testing.TB, primary *RedisServer) *RedisServer {
	t.Helper()
	ranges, err := primary.SlotRanges(context.Background())
	must(t, "cluster slots", err)
	for _, r := range ranges {
		for _, n := range c.Nodes {
			if r.Nodes[0].Addr == primary.Addr && len(r.Nodes) > 1 && r.Nodes[1].Addr == n.Addr {
				return n
			}
		}
	}
	t.Fatalf("%s has no replica", primary.Addr)
	return nil
}

// Detach stops a replica and cuts its connection to the primary, so that it
// misses every write until Resume. (What is on its way in a connection, a
// stopped process still reads when it goes on.)
func (c *RedisClusterServers) Detach(t testing.TB, primary, replica *RedisServer) {
	t.Helper()
	replica.Pause()
	must(t, "client kill", primary.Client.Do(context.Background(), "client", "kill", "type", "replica").Err())
}

// Kill ends a node, as a crash does.
func (c *RedisClusterServers) Kill(n *RedisServer) {
	c.drop(n)
	n.Kill()
}

// Revive starts a node again after Kill; it becomes a replica of the primary
// that took its slots.
func (c *RedisClusterServers) Revive(t testing.TB, n *RedisServer) {
	t.Helper()
	n.Restart(t)
	c.Nodes = append(c.Nodes, n)
	c.WaitFailover(t)
	c.WaitReplicas(t)
}

func (c *RedisClusterServers) drop(n *RedisServer) {
	c.Nodes = slices.DeleteFunc(c.Nodes, func(o *RedisServer) bool { return o == n })
}

// WaitFailover waits until all slots have a primary that runs, and all nodes
// agree.
func (c *RedisClusterServers) WaitFailover(t testing.TB) {
	t.Helper()
	for _, n := range c.Nodes {
		Wait(t, "failover", 30*time.Second, func(ctx context.Context) error {
			info, err := n.Client.ClusterInfo(ctx).Result()
			if err != nil {
				return err
			}
			if !strings.Contains(info, "cluster_state:ok") {
				return errors.New(info)
			}
			ranges, err := n.SlotRanges(ctx)
			for _, r := range ranges {
				if !slices.Contains(c.Addrs(), r.Nodes[0].Addr) {
					return fmt.Errorf("slot %d is at %s, which is gone", r.Start, r.Nodes[0].Addr)
				}
			}
			return err
		})
	}
}

// SlotRanges are the slots as n sees them, each with its primary first.
func (s *RedisServer) SlotRanges(ctx context.Context) ([]redis.ClusterSlot, error) {
	//lint:ignore SA1019 CLUSTER SHARDS names nodes that have failed too
	return s.Client.ClusterSlots(ctx).Result()
}

// SlotsOf are the slots of a primary.
func (c *RedisClusterServers) SlotsOf(t testing.TB, n *RedisServer) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ranges, err := n.SlotRanges(ctx)
	must(t, "cluster slots", err)
	var found []int
	for _, r := range ranges {
		if r.Nodes[0].Addr == n.Addr {
			for slot := r.Start; slot <= r.End; slot++ {
				found = append(found, slot)
			}
		}
	}
	return found
}

// MoveSlots moves slots with their keys from one primary to another, as
// redis-cli --cluster reshard does. between, if it is not nil, is called while
// a slot has keys on both.
func (c *RedisClusterServers) MoveSlots(t testing.TB, from, to *RedisServer, slots []int, between func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	set := func(n *RedisServer, args ...any) {
		t.Helper()
		must(t, "setslot", n.Client.Do(ctx, append([]any{"cluster", "setslot"}, args...)...).Err())
	}
	for _, slot := range slots {
		set(to, slot, "importing", c.ids[from])
		set(from, slot, "migrating", c.ids[to])
		for {
			keys, err := from.Client.ClusterGetKeysInSlot(ctx, slot, 10).Result()
			must(t, "getkeysinslot", err)
			if len(keys) == 0 {
				break
			}
			args := []any{"migrate", "127.0.0.1", to.port(), "", 0, 5000, "keys"}
			for _, k := range keys {
				args = append(args, k)
			}
			must(t, "migrate", from.Client.Do(ctx, args...).Err())
			if between != nil {
				between()
			}
		}
		set(to, slot, "node", c.ids[to])
		set(from, slot, "node", c.ids[to])
		for _, p := range c.Nodes {
			if p != to && p != from && !c.isReplica(ctx, p) {
				set(p, slot, "node", c.ids[to])
			}
		}
	}
}

func (c *RedisClusterServers) isReplica(ctx context.Context, n *RedisServer) bool {
	role, _ := n.Client.Do(ctx, "role").Slice()
	return len(role) > 0 && role[0] == "slave"
}
