package session_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// sixValues is what six typical values come to; the same as in bench/.
const sixValues = `{"visits":41,"name":"Ada Lovelace","login":"2026-11-20T09:30:00Z","csrf":"mVv0s7yfjG3iS0pS8m3bQe1kD2sYb6h1xw0nJq9TzLc",` +
	`"roles":["customer","editor","beta"],"cart":[{"sku":"tea-green","qty":2,"cents":790},{"sku":"pot-glass","qty":1,"cents":2950},{"sku":"cup-white","qty":4,"cents":640}]}`

func benchRedis(b *testing.B) (*redis.Client, *session.RedisStore, *session.Record, string) {
	server := servers.Redis(b)
	client := redis.NewClient(redisOptions(server.Addr))
	b.Cleanup(func() { client.Close() })
	store := session.NewRedisStore(client, nil)
	rec, token := sixValueRecord()
	if _, err := store.Save(b.Context(), rec); err != nil {
		b.Fatal(err)
	}
	return client, store, rec, token
}

func sixValueRecord() (*session.Record, string) {
	token := session.NewToken()
	now := time.Now()
	return &session.Record{
		ID: session.ID(token), User: "ada@example.org", Device: "Firefox on Linux", Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(30 * time.Minute), Deadline: now.Add(12 * time.Hour), Data: []byte(sixValues),
	}, token
}

// compare runs ours and raw in turns, so that both meet the same noise, and
// reports how many times as long ours takes.
func compare(b *testing.B, raw, ours func()) {
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			raw()
		}
	})
	b.Run("store", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ours()
		}
	})
	b.Run("ratio", func(b *testing.B) {
		var of [2]time.Duration
		for b.Loop() {
			for i, f := range []func(){raw, ours} {
				start := time.Now()
				f()
				of[i] += time.Since(start)
			}
		}
		b.ReportMetric(float64(of[1])/float64(of[0]), "ratio")
	})
}

func BenchmarkRedisLoad(b *testing.B) {
	client, store, rec, token := benchRedis(b)
	ctx, key := context.Background(), "session:"+rec.ID
	compare(b, func() {
		if _, err := client.Get(ctx, key).Bytes(); err != nil {
			b.Fatal(err)
		}
	}, func() {
		if _, err := store.Load(ctx, token); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkRedisChange loads and saves, against GET and SET of as many bytes.
func BenchmarkRedisChange(b *testing.B) {
	client, store, rec, token := benchRedis(b)
	ctx, key := context.Background(), "session:"+rec.ID
	text := client.Get(ctx, key).Val()
	compare(b, func() {
		if _, err := client.Get(ctx, key).Bytes(); err != nil {
			b.Fatal(err)
		}
		if err := client.Set(ctx, "raw", text, time.Hour).Err(); err != nil {
			b.Fatal(err)
		}
	}, func() {
		rec, err := store.Load(ctx, token)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := store.Save(ctx, rec); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkRedisReplicas is what waiting for a replica costs.
func BenchmarkRedisReplicas(b *testing.B) {
	primary, _ := servers.RedisReplicas(b, 1)
	client := redis.NewClient(redisOptions(primary.Addr))
	b.Cleanup(func() { client.Close() })
	ctx := context.Background()
	save := func(replicas int) func() {
		store := session.NewRedisStore(client, &session.RedisOptions{Replicas: replicas})
		rec, _ := sixValueRecord()
		return func() {
			if _, err := store.Save(ctx, rec); err != nil {
				b.Fatal(err)
			}
			rec.Version++
		}
	}
	compare(b, save(0), save(1))
}

// BenchmarkRedisMemory reports what sessions take in the server, with their
// index entries and all.
func BenchmarkRedisMemory(b *testing.B) {
	client, store, rec, _ := benchRedis(b)
	ctx := context.Background()
	used := func() float64 {
		n, err := client.InfoMap(ctx, "memory").Result()
		if err != nil {
			b.Fatal(err)
		}
		v, _ := strconv.ParseFloat(n["Memory"]["used_memory_dataset"], 64)
		o, _ := strconv.ParseFloat(n["Memory"]["used_memory_overhead"], 64)
		return v + o
	}
	const n = 20_000
	fill := func(signedIn bool) float64 {
		client.FlushDB(ctx)
		before := used()
		for i := range n {
			rec, _ := sixValueRecord()
			if rec.User = ""; signedIn {
				rec.User = "user" + strconv.Itoa(i) + "@example.org"
			}
			if _, err := store.Save(ctx, rec); err != nil {
				b.Fatal(err)
			}
		}
		return (used() - before) / n
	}
	for b.Loop() {
		b.ReportMetric(float64(client.MemoryUsage(ctx, "session:"+rec.ID).Val()), "B/record")
		b.ReportMetric(fill(false), "B/anonymous")
		b.ReportMetric(fill(true), "B/signed-in")
		b.ReportMetric(0, "ns/op")
		if _, err := store.Save(ctx, rec); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d bytes of values", len(sixValues))
}
