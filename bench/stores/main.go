// Stores makes a table of what BenchmarkStores prints, with the best of several
// turns and what it is in bare queries of the same server; and one of the goals
// of replicated nodes, with what BenchmarkWipedNode prints.
//
//	go test -run '^$' -bench 'Stores|WipedNode' -benchtime 100ms -count 3 . | go run ./stores
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
)

// place is one backend: nanoseconds by operation.
type place struct {
	name string
	ns   map[string]float64
}

var (
	line  = regexp.MustCompile(`^BenchmarkStores/([^/]+)/(\S+?)(?:-\d+)?\s+\d+\s+(\S+) ns/op`)
	wiped = regexp.MustCompile(`^BenchmarkWipedNode(?:-\d+)?\s.*\s(\S+) s/ready`)
)

// columns are the operations, and the bare query that each is measured against.
var columns = []struct{ op, bare string }{
	{"load", "bare_read"}, {"save", "bare_write"}, {"load_and_save", ""}, {"touch", "bare_write"}, {"bare_read", ""}, {"bare_write", ""},
}

func main() {
	places, ready, err := read(os.Stdin)
	if err == nil && len(places) == 0 {
		err = fmt.Errorf("there is no BenchmarkStores in the input")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stores:", err)
		os.Exit(1)
	}
	write(os.Stdout, places)
	goals(os.Stdout, places, ready)
}

// read returns the backends, and in how many seconds a wiped node was ready.
func read(r io.Reader) (places []*place, ready float64, err error) {
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			return places, ready, s.Err()
		}
		if m := wiped.FindStringSubmatch(s.Text()); m != nil {
			if ready, err = strconv.ParseFloat(m[1], 64); err != nil {
				return nil, 0, fmt.Errorf("%q: %w", s.Text(), err)
			}
			continue
		}
		m := line.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		ns, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, 0, fmt.Errorf("%q: %w", s.Text(), err)
		}
		i := slices.IndexFunc(places, func(p *place) bool { return p.name == m[1] })
		if i < 0 {
			i = len(places)
			places = append(places, &place{name: m[1], ns: map[string]float64{}})
		}
		if best, ok := places[i].ns[m[2]]; !ok || ns < best {
			places[i].ns[m[2]] = ns
		}
	}
}

func write(w io.Writer, places []*place) {
	fmt.Fprintln(w, "| store | load | save | load and save | touch | bare read | bare write |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|")
	for _, p := range places {
		fmt.Fprintf(w, "| %s |", p.name)
		for _, c := range columns {
			ns, ok := p.ns[c.op]
			if !ok {
				fmt.Fprint(w, " |")
				continue
			}
			fmt.Fprintf(w, " %s", duration(ns))
			if bare := p.ns[c.bare]; bare > 0 {
				fmt.Fprintf(w, " (%.1f ×)", ns/bare)
			}
			fmt.Fprint(w, " |")
		}
		fmt.Fprintln(w)
	}
}

// goals are those of replicated nodes, as far as they were measured.
func goals(w io.Writer, places []*place, ready float64) {
	of := func(name, op string) float64 {
		for _, p := range places {
			if p.name == name {
				return p.ns[op]
			}
		}
		return 0
	}
	local := of("nats-local-memory", "load")
	if local == 0 && ready == 0 {
		return
	}
	fmt.Fprint(w, "\n| goal | wanted | measured |\n|---|---:|---:|\n")
	if get := of("redis", "bare_read"); get > 0 && local > 0 {
		fmt.Fprintf(w, "| Redis GET / load from a node's own copy | ≥ 50 | %.0f |\n", get/local)
	}
	if memory := of("memory", "load"); memory > 0 && local > 0 {
		fmt.Fprintf(w, "| load from a node's own copy / from memory | ≤ 3 | %.1f |\n", local/memory)
	}
	if ready > 0 {
		fmt.Fprintf(w, "| a wiped node with 100,000 sessions is ready | < 10 s | %.1f s |\n", ready)
	}
}

func duration(ns float64) string {
	if ns >= 1e6 {
		return fmt.Sprintf("%.1f ms", ns/1e6)
	}
	return fmt.Sprintf("%.1f µs", ns/1e3)
}
