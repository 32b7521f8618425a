package failures_test

import (
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/natsstore"
)

// A node stands still (SIGSTOP) for so long that the others go on without it,
// and then goes on where it stood. What it is asked meanwhile it answers then,
// and must not answer with what it knew before.
func TestPause(t *testing.T) {
	for _, who := range []string{"leader", "follower"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			c := start(t, natsstore.File, nil, nil)
			cs := connect(t, c, many, maxStale)
			m := c.role(who)
			left := cs.known(m)
			var ready time.Duration
			cs.trouble(func() {
				m.process.Pause()
				cs.progress()
				cs.leave(c.others(m)[0], left)
				cs.outlast(left)
				var asking sync.WaitGroup
				for i := range 8 {
					asking.Go(func() { cs.read(t.Context(), m, mode(i), left) })
					asking.Go(func() { cs.read(t.Context(), m, mode(i), cs.stayers[i]) })
				}
				m.process.Resume()
				asking.Wait()
				ready = c.waitServing(m)
			})
			cs.progress()
			cs.close("the "+who+" stands still (`SIGSTOP`, `SIGCONT`)", ready)
		})
	}
}

// role returns the leader, or one that follows.
func (c *cluster) role(who string) *member {
	c.t.Helper()
	leader := c.leader(c.members[0])
	if who == "leader" {
		return leader
	}
	return c.others(leader)[0]
}

// known signs a user in whom this node has in its copy.
func (cs *clients) known(m *member) *user {
	cs.t.Helper()
	u, err := cs.signIn(cs.t.Context(), m, "local")
	if err != nil {
		cs.t.Fatal(err)
	}
	if status, _ := cs.read(cs.t.Context(), m, "local", u); status != 200 {
		cs.t.Fatalf("status %d", status)
	}
	return u
}

// leave signs a user out on a node, as often as it takes.
func (cs *clients) leave(m *member, u *user) {
	cs.t.Helper()
	for cs.signOut(cs.t.Context(), m, "strong", u) != nil {
		if cs.t.Context().Err() != nil {
			cs.t.FailNow()
		}
	}
}

// outlast waits until a sign-out is so old that everybody must know of it.
func (cs *clients) outlast(u *user) {
	for time.Since(u.out) <= maxStale {
		rest(cs.t.Context(), pause)
	}
}
