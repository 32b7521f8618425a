package servers_test

import (
	"testing"

	"github.com/distsession/session/internal/servers"
)

func TestHazelcast(t *testing.T) {
	c := servers.Hazelcast(t, 1)
	m := c.Join(t)
	c.Members[0].Kill()
	c.Settle(t, m)
	c.Members[0].Restart(t)
	c.Members[1].Stop(t)
	c.Settle(t, c.Members[0])
	if n := len(c.Addrs()); n != 2 {
		t.Errorf("%d addresses", n)
	}
}
