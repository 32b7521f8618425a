package proof

import (
	"flag"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

var full = flag.Bool("table", false, "run every case over every balancer, longer, and print the table")

// tally is what is counted.
type tally struct {
	requests int
	moved    int // answers from another node than the one before
	lost     int // sessions that were signed in, and are not
	missed   int // reads that did not show a user's own acknowledged writes
	stale    int // reads that did not show what another device wrote more than maxStale before
	updates  int // acknowledged additions that are not there in the end
	twice    int // POSTs that ran more than once
	inHands  int // POSTs that failed in the hands of a node that was killed, frozen or cut off
	failed   int // any other failure
	longest  time.Duration
}

func (s *tally) add(o tally) {
	s.requests += o.requests
	s.moved += o.moved
	s.lost += o.lost
	s.missed += o.missed
	s.stale += o.stale
	s.updates += o.updates
	s.twice += o.twice
	s.inHands += o.inHands
	s.failed += o.failed
	s.longest = max(s.longest, o.longest)
}

// consistent checks what holds wherever the nodes hold copies of a backup.
func (s *tally) consistent(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		what string
		n    int
	}{
		{"sessions were lost", s.lost},
		{"reads missed the user's own writes", s.missed},
		{"reads were older than MaxStale", s.stale},
		{"acknowledged updates were lost", s.updates},
		{"requests ran twice", s.twice},
	} {
		if c.n != 0 {
			t.Errorf("%d %s", c.n, c.what)
		}
	}
}

// table collects the results, in the order of the cases.
var table struct {
	mu   sync.Mutex
	rows []row
}

type row struct {
	setup, fault string
	tally
}

func report(setup, fault string, s tally) {
	table.mu.Lock()
	defer table.mu.Unlock()
	table.rows = append(table.rows, row{setup, fault, s})
}

// printTable prints what was counted as Markdown.
func printTable(w io.Writer) {
	if !*full || len(table.rows) == 0 {
		return
	}
	fmt.Fprintln(w, "| balancer, sessions | what happens | requests | moved | lost | missed | stale | updates | twice | in hands | failed | longest |")
	fmt.Fprintln(w, "|---|---|"+strings.Repeat("---:|", 10))
	for _, s := range setups {
		for _, f := range faultsOfAll {
			for _, r := range table.rows {
				if r.setup == s.name && r.fault == f.name {
					fmt.Fprintf(w, "| %s | %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %v |\n", r.setup, r.fault,
						r.requests, r.moved, r.lost, r.missed, r.stale, r.updates, r.twice, r.inHands, r.failed, r.longest.Round(10*time.Millisecond))
				}
			}
		}
	}
}
