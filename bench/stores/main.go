// Stores makes a table of what BenchmarkStores prints, with the best of several
// turns and what it is in bare queries of the same server.
//
//	go test -run '^$' -bench Stores -count 5 . | go run ./stores
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

var line = regexp.MustCompile(`^BenchmarkStores/([^/]+)/(\S+?)(?:-\d+)?\s+\d+\s+(\S+) ns/op`)

// columns are the operations, and the bare query that each is measured against.
var columns = []struct{ op, bare string }{
	{"load", "bare_read"}, {"save", "bare_write"}, {"load_and_save", ""}, {"touch", "bare_write"}, {"bare_read", ""}, {"bare_write", ""},
}

func main() {
	places, err := read(os.Stdin)
	if err == nil && len(places) == 0 {
		err = fmt.Errorf("there is no BenchmarkStores in the input")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stores:", err)
		os.Exit(1)
	}
	write(os.Stdout, places)
}

func read(r io.Reader) ([]*place, error) {
	var places []*place
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			return places, s.Err()
		}
		m := line.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		ns, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", s.Text(), err)
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

func duration(ns float64) string {
	if ns >= 1e6 {
		return fmt.Sprintf("%.1f ms", ns/1e6)
	}
	return fmt.Sprintf("%.1f µs", ns/1e3)
}
