package failures_test

import (
	"os"
	"testing"
	"time"

	"github.com/distsession/session/natsstore"
)

// What a node that was away has to catch up with.
const changes = 100_000

// A node that was away while others made 100,000 changes, and then one whose
// disk was wiped, is ready only when it has everything; then one of the others
// may go.
func TestAway(t *testing.T) {
	t.Parallel()
	c := start(t, natsstore.File, func(_ int, config *nodeConfig) { config.MaxStale = 5 * time.Second }, nil)
	cs := connect(t, c, many, 0)
	back := c.others(c.leader(c.members[0]))[0]
	var away, wiped time.Duration
	cs.trouble(func() {
		back.process.Kill()
		c.long(c.others(back)[0], "POST", "/fill?n=100000")
		back.process.Again(t)
		away = c.waitComplete(back)
	})
	cs.close("a node was away for 100,000 changes", away)

	cs = connect(t, c, many, 0)
	cs.trouble(func() {
		back.process.Kill()
		if err := os.RemoveAll(back.config.Dir); err != nil {
			t.Fatal(err)
		}
		back.process.Again(t)
		wiped = c.waitComplete(back)
		cs.without(c.leader(back), back)
	})
	cs.close("a node's disk is wiped, with 100,000 sessions", wiped)
}

// waitComplete waits until a node is ready, tells how long that took, and checks
// that it had everything then.
func (c *cluster) waitComplete(m *member) time.Duration {
	c.t.Helper()
	took := c.waitServing(m)
	st, err := m.status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	const onItsWay = 1000 // what clients change meanwhile
	if st.First < changes || st.Lag > onItsWay {
		c.t.Errorf("%s was ready with %d sessions in its copy and %d changes behind", m.config.Name, st.First, st.Lag)
	}
	return took
}

// without kills a node and asks another for all sessions, which it has from
// itself and the third.
func (cs *clients) without(dead, asked *member) {
	cs.t.Helper()
	dead.process.Kill()
	cs.progress()
	for _, path := range []string{"/local/missing?n=100000", "/strong/missing?n=10000"} {
		if n := cs.cluster.long(asked, "GET", path); n != "0" {
			cs.t.Errorf("%s: %s are missing", path, n)
		}
	}
	dead.process.Again(cs.t)
}
