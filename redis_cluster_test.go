package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// openRedis opens a store as a program does, and a client of its own kind for
// the test.
func openRedis(t *testing.T, url string) *session.RedisStore {
	t.Helper()
	store, err := session.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(store) })
	return store.(*session.RedisStore)
}

// patientURL makes a store that waits for replicas almost as long as the ledger.
const patientURL = "&read_timeout=4s&replica_timeout=2s"

func clusterURL(c *servers.RedisClusterServers, query string) string {
	return "redis+cluster://" + strings.Join(c.Addrs(), ",") + query
}

func TestRedisCluster(t *testing.T) {
	c := servers.RedisCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), ContextTimeoutEnabled: true, ClusterStateReloadInterval: time.Second})
	t.Cleanup(func() { client.Close() })
	env := func(t *testing.T, replicas int) *redisEnv {
		e := newRedisEnv(t, client)
		e.store = session.NewRedisStore(client, &session.RedisOptions{
			Prefix: e.prefix, Now: e.clock.Now, Replicas: replicas, ReplicaTimeout: 4 * time.Second,
		})
		return e
	}
	for _, replicas := range []int{0, 1} {
		t.Run(fmt.Sprintf("index, Replicas %d", replicas), func(t *testing.T) { testRedisIndex(t, env(t, replicas)) })
		t.Run(fmt.Sprintf("scripts, Replicas %d", replicas), func(t *testing.T) {
			e := env(t, replicas)
			flush := func() {
				for _, n := range c.Nodes {
					n.Client.ScriptFlush(t.Context())
				}
			}
			flush()
			_, token := e.create(t, "ann")
			flush()
			e.save(t, e.load(t, token))
			flush()
			if n, err := e.store.DeleteUser(t.Context(), "ann", ""); n != 1 || err != nil {
				t.Error(n, err)
			}
		})
	}
	t.Run("scan and lists", func(t *testing.T) {
		e := env(t, 0)
		want := map[string]bool{}
		for range 300 {
			rec, _ := e.create(t, "ann")
			want[rec.ID] = true
		}
		if n := len(e.list(t, "ann")); n != 300 {
			t.Errorf("%d listed", n)
		}
		for rec, err := range e.store.Scan(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			delete(want, rec.ID)
		}
		if len(want) != 0 {
			t.Errorf("%d were not yielded", len(want))
		}
		if n, err := e.store.DeleteUser(t.Context(), "ann", ""); n != 300 || err != nil {
			t.Error(n, err)
		}
	})
	t.Run("check", func(t *testing.T) {
		err := openRedis(t, clusterURL(c, "?replicas=2")).Check(t.Context())
		for _, n := range c.Primaries(t) {
			for _, want := range []string{": persistence is off", ": 1 replicas are connected, and Replicas is 2"} {
				if err == nil || !strings.Contains(err.Error(), n.Addr+want) {
					t.Errorf("%v lacks %s%s", err, n.Addr, want)
				}
			}
		}
		careless := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), RouteRandomly: true})
		defer careless.Close()
		err = session.NewRedisStore(careless, nil).Check(t.Context())
		for _, want := range []string{"reads from replicas", "ClusterStateReloadInterval", "ContextTimeoutEnabled"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v lacks %s", err, want)
			}
		}
	})
}

// A Cluster that is resharded, grows, shrinks and loses a primary while
// sessions change: nobody is signed out, every acknowledged change is there.
func TestRedisClusterUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 20 seconds")
	}
	for _, replicas := range []int{0, 1} {
		t.Run(fmt.Sprintf("Replicas %d", replicas), func(t *testing.T) {
			c := servers.RedisCluster(t)
			store := openRedis(t, clusterURL(c, fmt.Sprintf("?replicas=%d", replicas)+patientURL))
			l := ledger.Start(t, store, 4, 24)

			// The slots that hold the sessions, and their neighbours.
			p := c.Primaries(t)
			slots := slotsOf(t, p[0], l.Records)
			moved := slots[p[0].Addr]
			if len(moved) == 0 {
				t.Fatal("no session is on the first primary")
			}
			c.MoveSlots(t, p[0], p[1], moved, l.Progress)
			l.Progress()
			t.Logf("%d slots with sessions moved", len(moved))

			n := c.AddPrimary(t)
			added := []*servers.RedisServer{n}
			if replicas > 0 {
				added = append(added, c.AddReplica(t, n))
			}
			all := append(moved, slots[p[1].Addr]...)
			c.MoveSlots(t, p[1], n, all, l.Progress)
			l.Progress()
			t.Logf("%d slots with sessions moved to a new primary", len(all))
			c.MoveSlots(t, n, p[1], all, nil)
			for _, n := range slices.Backward(added) {
				c.Remove(t, n)
			}
			l.Progress()
			t.Log("the new primary was removed")

			// The replica that is elected misses the last moment's changes.
			l.During("primary killed while its replica lagged", func() {
				replica := c.ReplicaOf(t, p[1])
				c.Detach(t, p[1], replica)
				if replicas == 0 {
					l.Progress()
				} else {
					l.Fails()
				}
				c.Kill(p[1])
				at := time.Now()
				replica.Resume()
				c.WaitFailover(t)
				t.Logf("the Cluster elected after %v", time.Since(at).Round(time.Millisecond))
				if replicas > 0 {
					c.Revive(t, p[1])
					t.Logf("it had a replica again after %v", time.Since(at).Round(time.Millisecond))
				}
			})
			l.Progress()
			switch lost := l.Check(); {
			case lost != 0 && replicas > 0:
				t.Errorf("%d acknowledged changes were lost", lost)
			case lost == 0 && replicas == 0:
				t.Error("nothing was lost, so this test shows nothing about Replicas")
			}
			usersListed(t, store, l.Records)
		})
	}
}

// slotsOf groups the slots that hold the records by their primary's address.
func slotsOf(t *testing.T, n *servers.RedisServer, recs []*session.Record) map[string][]int {
	t.Helper()
	ranges, err := n.SlotRanges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]int{}
	seen := map[int]bool{}
	for _, rec := range recs {
		slot := int(n.Client.ClusterKeySlot(t.Context(), "session:"+rec.ID).Val())
		if seen[slot] {
			continue
		}
		seen[slot] = true
		for _, r := range ranges {
			if r.Start <= slot && slot <= r.End {
				found[r.Nodes[0].Addr] = append(found[r.Nodes[0].Addr], slot)
			}
		}
	}
	return found
}

// usersListed checks that every session is in its user's list.
func usersListed(t *testing.T, store *session.RedisStore, recs []*session.Record) {
	t.Helper()
	want := map[string]int{}
	for _, rec := range recs {
		want[rec.User]++
	}
	for user, n := range want {
		for _, err := range store.List(t.Context(), user) {
			if err != nil {
				t.Fatal(err)
			}
			n--
		}
		if n != 0 {
			t.Errorf("%d sessions of %s are not listed", n, user)
		}
	}
}

// The same seen by browsers: no 5xx but during the election.
func TestRedisClusterOverHTTP(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 seconds")
	}
	c := servers.RedisCluster(t)
	store := openRedis(t, clusterURL(c, "?replicas=1"+patientURL))
	l := ledger.StartHTTP(t, store, 4, 24)
	p := c.Primaries(t)
	c.MoveSlots(t, p[0], p[1], c.SlotsOf(t, p[0])[:400], nil)
	l.Progress()
	l.During("primary killed", func() {
		c.Kill(p[1])
		c.WaitFailover(t)
		c.Revive(t, p[1])
	})
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d acknowledged changes were lost", lost)
	}
}

func TestRedisSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 seconds")
	}
	for _, replicas := range []int{0, 2} {
		t.Run(fmt.Sprintf("Replicas %d", replicas), func(t *testing.T) {
			t.Setenv("SENTINEL_PASSWORD", "sentinel-secret")
			s := servers.RedisSentinel(t, "sentinel-secret")
			store := openRedis(t, "redis+sentinel://"+strings.Join(s.Addrs, ",")+"/"+s.Master+
				fmt.Sprintf("?sentinel_password=env:SENTINEL_PASSWORD&replicas=%d", replicas)+patientURL)
			l := ledger.Start(t, store, 4, 24)
			if err := store.Check(t.Context()); err == nil || strings.Contains(err.Error(), "not encrypted") {
				t.Errorf("check: %v", err)
			}
			l.During("primary killed", func() {
				old := s.Primary(t)
				old.Kill()
				at := time.Now()
				now := s.WaitFailover(t, old)
				t.Logf("the sentinels elected after %v", time.Since(at).Round(time.Millisecond))
				if replicas > 0 {
					s.Revive(t, old, now)
					t.Logf("it had both replicas again after %v", time.Since(at).Round(time.Millisecond))
				}
			})
			l.Progress()
			if lost := l.Check(); lost != 0 && replicas > 0 {
				t.Errorf("%d acknowledged changes were lost", lost)
			}
			usersListed(t, store, l.Records)
		})
	}
}

// A primary that is stopped, and not dead, must not keep requests waiting.
func TestRedisClusterStopped(t *testing.T) {
	c := servers.RedisCluster(t)
	store := openRedis(t, clusterURL(c, ""))
	token := session.NewToken()
	rec := &session.Record{ID: session.ID(token), Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	if _, err := store.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	p := c.Primaries(t)
	for _, n := range p {
		n.Pause()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := store.Load(ctx, token)
	if err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("load: %v", err)
	}
	for _, n := range p {
		n.Resume()
	}
	servers.Wait(t, "the session", 20*time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := store.Load(ctx, token)
		if errors.Is(err, session.ErrNotFound) {
			t.Fatal("signed out")
		}
		return err
	})
}
