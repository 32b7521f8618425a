package bench_test

import (
	"os"
	"testing"

	"github.com/distsession/session/bench"
	"github.com/redis/go-redis/v9"
)

// Redis rows need a server: SESSION_REDIS=host:port.
func redisClient() redis.UniversalClient {
	addr := os.Getenv("SESSION_REDIS")
	if addr == "" {
		return nil
	}
	return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
}

func BenchmarkHandler(b *testing.B) {
	subjects, err := bench.Subjects(redisClient())
	if err != nil {
		b.Fatal(err)
	}
	for _, op := range []string{bench.Read, bench.Change, bench.Untouched, bench.Anonymous} {
		for _, s := range subjects {
			run, ok := s.Prepare(op)
			if !ok {
				continue
			}
			b.Run(op+"/"+s.Store+"/"+s.Library, func(b *testing.B) {
				serve := run.Serve()
				b.ReportAllocs()
				for b.Loop() {
					serve()
				}
			})
		}
	}
}

// Every subject does what its row says: the benchmark compares nothing that
// does not work.
func TestSubjects(t *testing.T) {
	client := redisClient()
	subjects, err := bench.Subjects(client)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		for op := range s.Ops {
			t.Run(s.Library+" "+s.Store+" "+op, func(t *testing.T) {
				run, _ := s.Prepare(op)
				serve := run.Serve()
				serve()
				serve() // panics if the session does not hold what it should
			})
		}
	}
	if client == nil {
		t.Log("without the rows for Redis: set SESSION_REDIS=host:port")
	}
}
