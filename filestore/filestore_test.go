package filestore_test

import (
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/storetest"
)

func TestLocalDisk(t *testing.T)         { storetest.Run(t, onDisk) }
func TestLocalDiskOverHTTP(t *testing.T) { storetest.RunHTTP(t, onDisk) }

const maxData = 64 << 10

// folder returns an empty folder that a store accepts.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	own(t, dir)
	return dir
}

func onDisk(t *testing.T) storetest.Backend { return backend(t, folder(t)) }

// backend is a place whose handles use the folders, which are one, in turn.
func backend(t *testing.T, dirs ...string) storetest.Backend {
	clock := &storetest.Clock{}
	opened := 0
	return storetest.Backend{
		Open: func() session.Store {
			opened++
			return create(t, dirs[opened%len(dirs)], &filestore.Options{
				MaxData: maxData, Now: clock.Now,
				InsecureNoSync: true, // what it writes is the same
			})
		},
		MaxData: maxData,
		Advance: clock.Advance,
	}
}

// create opens a store in a folder that must do.
func create(t testing.TB, dir string, opts *filestore.Options) *filestore.Store {
	t.Helper()
	s, err := filestore.New(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
