//go:build unix && !aix && !solaris

package dirstore_test

import (
	"os"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/storetest"
)

func TestRenaming(t *testing.T)         { storetest.Run(t, renaming) }
func TestRenamingOverHTTP(t *testing.T) { storetest.RunHTTP(t, renaming) }

const maxData = 64 << 10

// renaming is a folder on the local disk whose records are kept by Renaming.
func renaming(t *testing.T) storetest.Backend {
	dir := t.TempDir()
	clock := &storetest.Clock{}
	return storetest.Backend{
		Open:    func() session.Store { return openRenaming(t, dir, clock) },
		MaxData: maxData,
		Advance: clock.Advance,
	}
}

func openRenaming(t testing.TB, dir string, clock *storetest.Clock) *dirstore.Store {
	t.Helper()
	tree := openLocal(t, dir)
	s := dirstore.New(tree, &dirstore.Renaming{Tree: tree, Limit: dirstore.TextLimit(maxData)}, dirstore.Options{
		Name: "test", MaxData: maxData, Now: clock.Now,
	})
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func openLocal(t testing.TB, dir string) *dirstore.Local {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree := dirstore.NewLocal(root, dirstore.LocalOptions{NoSync: true})
	t.Cleanup(func() { tree.Close() })
	return tree
}
