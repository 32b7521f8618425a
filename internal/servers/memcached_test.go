package servers_test

import (
	"slices"
	"testing"

	"github.com/distsession/session/internal/servers"
)

func TestMemcachedServer(t *testing.T) {
	s := servers.Memcached(t, "-m", "16")
	if got := s.Ask(t, "add a 0 0 1\r\nx", "get a"); !slices.Equal(got[:2], []string{"STORED", "VALUE a 0 1"}) {
		t.Errorf("answers %q", got)
	}
	s.Kill()
	s.Restart(t)
	if got := s.Ask(t, "get a"); !slices.Equal(got, []string{"END"}) {
		t.Errorf("after a restart %q; it keeps nothing", got)
	}
}

func TestInfinispanServers(t *testing.T) {
	c := servers.Infinispan(t, 2)
	if got := c.Members[0].Ask(t, "add a 0 0 1\r\nx"); got[0] != "STORED" {
		t.Errorf("answers %q", got)
	}
	c.Members[0].Kill()
	c.Members[0].Restart(t)
	for _, m := range c.Members {
		if got := m.Ask(t, "get a"); got[0] != "VALUE a 0 1" {
			t.Errorf("%s answers %q; each member answers for every key", m.Addr, got)
		}
	}
}
