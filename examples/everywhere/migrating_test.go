package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
)

// A kind is one backend: start starts its server, if it has one, and returns
// what makes the URL of the n-th place there, empty at first.
var kinds = []struct {
	name  string
	start func(t testing.TB) func(t *testing.T, n int) (url string)
}{
	{"memory", func(testing.TB) func(*testing.T, int) string {
		return func(*testing.T, int) string { return "memory:" }
	}},
	{"sqlite", func(testing.TB) func(*testing.T, int) string {
		return func(t *testing.T, _ int) string {
			return "sqlite://" + filepath.Join(t.TempDir(), "sessions.db") + "?synchronous=normal"
		}
	}},
	{"file", func(testing.TB) func(*testing.T, int) string {
		return func(t *testing.T, _ int) string {
			return "file://" + filepath.Join(t.TempDir(), "sessions") + "?create=true&insecure_no_sync=true"
		}
	}},
	{"nats", func(testing.TB) func(*testing.T, int) string {
		return func(*testing.T, int) string { return "nats+embedded:?durability=memory" } // each a node of its own
	}},
	{"redis", func(t testing.TB) func(*testing.T, int) string { return redisAt(servers.Redis(t).Addr) }},
	{"postgres", func(t testing.TB) func(*testing.T, int) string {
		addr := servers.Postgres(t, servers.SQLOptions{}).Addr
		return func(_ *testing.T, n int) string {
			return fmt.Sprintf("postgres://%s:%s@%s/%[1]s?sslmode=disable&migrate=true&table=p%[4]d", servers.SQLUser, servers.SQLPassword, addr, n)
		}
	}},
	{"mariadb", func(t testing.TB) func(*testing.T, int) string {
		addr := servers.MariaDB(t, servers.SQLOptions{}).Addr
		return func(_ *testing.T, n int) string {
			return fmt.Sprintf("mariadb://%s:%s@%s/%[1]s?migrate=true&table=p%[4]d", servers.SQLUser, servers.SQLPassword, addr, n)
		}
	}},
	{"hdfs", func(t testing.TB) func(*testing.T, int) string {
		addr := servers.HDFS(t, 2).Namenode.Addr
		return func(_ *testing.T, n int) string {
			return fmt.Sprintf("hdfs://%s/p%d?user=%s", addr, n, servers.HDFSUser)
		}
	}},
	{"memcached", func(t testing.TB) func(*testing.T, int) string {
		addr := servers.Memcached(t).Addr
		return func(_ *testing.T, n int) string { return fmt.Sprintf("memcached://%s?prefix=p%d:", addr, n) }
	}},
	{"ignite", func(t testing.TB) func(*testing.T, int) string {
		addrs := servers.Ignite(t, 2, servers.IgniteOptions{}).Addrs()
		return func(_ *testing.T, n int) string {
			return fmt.Sprintf("ignite://%s?timeout=10s&prefix=p%d:", strings.Join(addrs, ","), n)
		}
	}},
	{"hazelcast", func(t testing.TB) func(*testing.T, int) string {
		cluster := servers.Hazelcast(t, 2)
		return func(_ *testing.T, n int) string {
			return fmt.Sprintf("hazelcast://%s?timeout=10s&cluster=%s&prefix=p%d:", strings.Join(cluster.Addrs(), ","), cluster.Cluster, n)
		}
	}},
}

func redisAt(addr string) func(*testing.T, int) string {
	return func(_ *testing.T, n int) string { return fmt.Sprintf("redis://%s?prefix=p%d:", addr, n) }
}

// mayLack turns a skip for want of a server into a panic, which try takes for
// an answer: the others are tested all the same.
type mayLack struct{ testing.TB }

type lacking string

func (mayLack) Skip(args ...any)            { panic(lacking(fmt.Sprint(args...))) }
func (mayLack) Skipf(f string, args ...any) { panic(lacking(fmt.Sprintf(f, args...))) }

func try[T any](t testing.TB, start func(testing.TB) T) (started T, why lacking) {
	t.Helper()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case lacking:
			why = r
		default:
			panic(r)
		}
	}()
	return start(mayLack{t}), ""
}

// skips leaves out pairs that would only take time: the grids keep sessions by
// the same code as memcached, which is tried with all, and a store that migrates
// to and from three of different kinds does so with the others.
func skips(a, b string) bool {
	return slices.Contains([]string{"ignite", "hazelcast", "nats"}, a) &&
		!slices.Contains([]string{"redis", "postgres", "hazelcast", "nats"}, b)
}

// From every server-side backend to every other, while both are in use.
func TestMigrating(t *testing.T) {
	n := 0
	type place struct {
		name string
		url  func(*testing.T, int) string
	}
	var places []place
	for _, k := range kinds {
		url, why := try(t, k.start)
		if why != "" {
			t.Run(k.name, func(t *testing.T) { t.Skip(string(why)) })
			if k.name != "redis" {
				continue
			}
			url = redisAt(miniredis.RunT(t).Addr())
		}
		places = append(places, place{k.name, url})
	}
	open := func(t *testing.T, p place) session.Store {
		t.Helper()
		n++
		s, err := session.Open(t.Context(), p.url(t, n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { session.Close(s) })
		return s
	}
	for _, from := range places {
		for _, to := range places {
			if from.name == to.name || skips(from.name, to.name) || skips(to.name, from.name) {
				continue
			}
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				rounds := 12
				if testing.Short() || from.name == "hdfs" || to.name == "hdfs" {
					rounds = 6 // of HDFS each write takes 15 ms and more
				}
				ledger.Migration(t, open(t, from), open(t, to), rounds)
			})
		}
	}
}
