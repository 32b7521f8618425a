package memcachedstore_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/memcachedstore"
)

func addrs(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("cache-%d.example:11211", i+1)
	}
	return all
}

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "session:" + session.ID(fmt.Sprint(i))
	}
	return all
}

func TestRingMovesFewKeys(t *testing.T) {
	const n = 100_000
	for _, tt := range []struct{ from, to int }{{1, 2}, {2, 3}, {3, 4}, {9, 10}, {4, 3}} {
		before, after := memcachedstore.NewRing(addrs(tt.from)), memcachedstore.NewRing(addrs(tt.to))
		moved, between := 0, 0
		for _, key := range keys(n) {
			a, b := before.Pick(key), after.Pick(key)
			if a != b {
				moved++
				if a < min(tt.from, tt.to) && b < min(tt.from, tt.to) {
					between++
				}
			}
		}
		// The share of the one that came or went, within a twentieth.
		want := 1 / float64(max(tt.from, tt.to))
		if got := float64(moved) / n; math.Abs(got-want) > want/20 {
			t.Errorf("%d to %d servers: %.1f %% of the keys move; want %.1f %%", tt.from, tt.to, 100*got, 100*want)
		}
		if between != 0 {
			t.Errorf("%d to %d servers: %d keys move between those that stay", tt.from, tt.to, between)
		}
	}
}

func TestRingIsFair(t *testing.T) {
	const n = 100_000
	for _, servers := range []int{2, 3, 10} {
		r := memcachedstore.NewRing(addrs(servers))
		count := make([]int, servers)
		for _, key := range keys(n) {
			count[r.Pick(key)]++
		}
		for i, c := range count {
			if want := n / servers; math.Abs(float64(c-want)) > float64(want)/20 {
				t.Errorf("of %d servers %d has %d keys of %d; want %d", servers, i, c, n, want)
			}
		}
	}
}

func TestRingKnowsNoOrder(t *testing.T) {
	one := memcachedstore.NewRing([]string{"a:1", "b:1", "c:1"})
	two := memcachedstore.NewRing([]string{"c:1", "a:1", "b:1"})
	for _, key := range keys(1000) {
		if a, b := "abc"[one.Pick(key)], "cab"[two.Pick(key)]; a != b {
			t.Fatalf("%s is at %c, and at %c if the servers are listed in another order", key, a, b)
		}
	}
}

// A version of this package that picked otherwise would sign everybody out.
func TestRingStaysAsItIs(t *testing.T) {
	r := memcachedstore.NewRing(addrs(5))
	got := ""
	for i := range 40 {
		got += fmt.Sprint(r.Pick(fmt.Sprintf("session:%d", i)))
	}
	if want := "3434330000201301313143132231140033134404"; got != want {
		t.Errorf("the keys are at %s; were at %s", got, want)
	}
}

func TestRingAllocatesNothing(t *testing.T) {
	r := memcachedstore.NewRing(addrs(5))
	if n := testing.AllocsPerRun(100, func() { r.Pick("session:x") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
