package failures_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/distsession/session/natsstore"
)

// Nodes are restarted one at a time, each when the one before is ready: no
// request fails but those under way on the node that stops.
func TestRollingRestart(t *testing.T) {
	for _, d := range []natsstore.Durability{natsstore.File, natsstore.Memory} {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			rollingRestart(t, d)
		})
	}
}

func rollingRestart(t *testing.T, d natsstore.Durability) {
	c := start(t, d, func(_ int, config *nodeConfig) { config.Timeout = 0 }, nil) // as managers have it
	cs := connect(t, c, many, 0)
	var ready time.Duration
	for _, m := range c.members {
		c.takeOut(m)
		m.leaving.Store(true)
		m.process.Stop(t, time.Minute)
		cs.progress()
		m.process.Again(t)
		m.leaving.Store(false) // the new process is excused for nothing
		m.held.Store(false)
		ready = max(ready, c.waitServing(m))
		cs.progress()
	}
	cs.close("three nodes are restarted, one at a time; durability "+d.String(), ready)
}

// The node that leads is killed: another one does, and those who come back find
// everything.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	c := start(t, natsstore.File, nil, nil)
	cs := connect(t, c, many, 0)
	var ready time.Duration
	cs.trouble(func() {
		m := c.leader(c.members[0])
		m.process.Kill()
		cs.progress()
		m.process.Again(t)
		ready = c.waitServing(m)
	})
	cs.progress()
	cs.close("the leader is killed (`kill -9`)", ready)
}

// All nodes are killed at once. What File survives FileSync does too: they differ
// in what the loss of power does.
func TestKillAll(t *testing.T) {
	t.Parallel()
	c := start(t, natsstore.File, nil, nil)
	cs := connect(t, c, many, 0)
	var ready time.Duration
	cs.trouble(func() {
		for _, m := range c.members {
			m.process.Kill()
		}
		for _, m := range c.members {
			m.process.Again(t)
		}
		for _, m := range c.members {
			ready = max(ready, c.waitServing(m))
		}
	})
	cs.progress()
	cs.close("all three are killed at once", ready)
}

// With Memory, when all have ended every session has: nobody is told otherwise,
// and users can sign in again.
func TestKillAllMemory(t *testing.T) {
	t.Parallel()
	c := start(t, natsstore.Memory, nil, nil)
	cs := &clients{t: t, cluster: c}
	u, err := cs.signIn(t.Context(), c.members[0], "strong")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.members {
		m.process.Kill()
	}
	u.quits = true // as far as anybody knows
	for _, m := range c.members {
		m.process.Again(t)
	}
	for _, m := range c.members {
		c.waitServing(m)
		for on := range modes {
			if status, _ := cs.read(t.Context(), m, on, u); status != http.StatusUnauthorized {
				t.Errorf("%s on %s: %d for a session that was in memory", on, m.config.Name, status)
			}
		}
	}
	if _, err := cs.signIn(t.Context(), c.members[1], "local"); err != nil {
		t.Error(err)
	}
}
