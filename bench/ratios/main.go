// Ratios runs the handlers of package bench in turns and prints the tables of
// bench/README.md: what a request costs over each library, as a ratio to the
// others in the same run.
//
//	go run ./ratios -redis localhost:6379 -rounds 15
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"testing"

	"github.com/distsession/session/bench"
	"github.com/redis/go-redis/v9"
)

type row struct {
	store, library, op string
	serve              func()
	ns                 []float64
	bytes, allocs      int64
}

// best is the least of all turns: what else runs on the machine only adds.
func (r *row) best() float64 { return slices.Min(r.ns) }

func main() {
	addr := flag.String("redis", "", "host:port of a Redis server, for its rows")
	rounds := flag.Int("rounds", 15, "turns; the best of them counts")
	each := flag.String("each", "50ms", "how long a row runs in each turn")
	testing.Init()
	flag.Parse()
	flag.Set("test.benchtime", *each)
	log.SetFlags(0)

	var client redis.UniversalClient
	if *addr != "" {
		client = redis.NewClient(&redis.Options{Addr: *addr, ContextTimeoutEnabled: true})
		if err := client.Ping(context.Background()).Err(); err != nil {
			log.Fatal(err)
		}
	}
	subjects, err := bench.Subjects(client)
	if err != nil {
		log.Fatal(err)
	}
	var rows []*row
	for _, op := range []string{bench.Read, bench.Change, bench.Untouched, bench.Anonymous} {
		for _, s := range subjects {
			if run, ok := s.Prepare(op); ok {
				rows = append(rows, &row{store: s.Store, library: s.Library, op: op, serve: run.Serve()})
			}
		}
	}
	for range *rounds {
		for _, r := range rows {
			res := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					r.serve()
				}
			})
			r.ns = append(r.ns, float64(res.T.Nanoseconds())/float64(res.N))
			r.bytes, r.allocs = res.AllocedBytesPerOp(), res.AllocsPerOp()-1 // the harness's copy of the request
		}
	}
	fmt.Println("| op | store | library | time | bytes | allocations |\n|---|---|---|---:|---:|---:|")
	for _, r := range rows {
		fmt.Printf("| %s | %s | %s | %.2f µs | %d | %d |\n", r.op, r.store, r.library, r.best()/1000, r.bytes, r.allocs)
	}
	if !goals(rows, client != nil) {
		os.Exit(1)
	}
}

// goals prints each goal beside what was measured. A ratio of times on a noisy
// machine is reported, an allocation count is enforced.
func goals(rows []*row, withRedis bool) bool {
	find := func(op, store, library string) *row {
		i := slices.IndexFunc(rows, func(r *row) bool { return r.op == op && r.store == store && r.library == library })
		return rows[i]
	}
	ratio := func(a, b *row) float64 { return a.best() / b.best() }
	ok := true
	fmt.Println("\n| goal | wanted | measured |\n|---|---:|---:|")
	say := func(goal, wanted, format string, got any) {
		fmt.Printf("| %s | %s | "+format+" |\n", goal, wanted, got)
	}
	count := func(goal string, most, got int64) {
		say(goal, fmt.Sprint("≤ ", most), "%d", got)
		ok = ok && got <= most
	}
	say("memory read: scs / session", "≥ 15", "%.1f", ratio(find(bench.Read, "memory", "scs"), find(bench.Read, "memory", "session")))
	count("memory read: allocations", 12, find(bench.Read, "memory", "session").allocs)
	count("untouched: allocations beyond the bare handler", 6, find(bench.Untouched, "memory", "session").allocs-find(bench.Untouched, "", "bare").allocs)
	say("cookie read: gorilla / session", "≥ 3", "%.1f", ratio(find(bench.Read, "cookie", "gorilla"), find(bench.Read, "cookie", "session")))
	if withRedis {
		say("Redis read: session / raw GET", "≤ 1.15", "%.2f", ratio(find(bench.Read, "redis", "session"), find(bench.Read, "redis", "raw GET")))
		say("Redis change: session / raw GET + SET", "≤ 1.3", "%.2f", ratio(find(bench.Change, "redis", "session"), find(bench.Change, "redis", "raw GET")))
	}
	return ok
}
