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
