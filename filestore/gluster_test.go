package filestore_test

import (
	"os"
	"testing"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

func TestGluster(t *testing.T) {
	g := servers.Gluster(t)
	// At once: the servers' answers take longer than the work between.
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		storetest.Run(t, func(t *testing.T) storetest.Backend { return backend(t, onGluster(t, g)...) })
	})
	t.Run("HTTP", func(t *testing.T) {
		t.Parallel()
		storetest.RunHTTP(t, func(t *testing.T) storetest.Backend { return backend(t, onGluster(t, g)...) })
	})
}

// onGluster makes a folder and returns it as both mounts have it.
func onGluster(t testing.TB, g *servers.GlusterFS) []string {
	t.Helper()
	first, err := os.MkdirTemp(g.Mounts[0], "sessions")
	if err != nil {
		t.Fatal(err)
	}
	own(t, first)
	return []string{first, g.Mounts[1] + first[len(g.Mounts[0]):]}
}
