package filestore_test

import (
	"os"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

func TestEveryStep(t *testing.T) {
	dir := folder(t)
	treetest.EveryStep(t, dir, faultyTree(t, dir), openFaulty)
}

// faultyTree prepares a folder and returns its tree, without faults.
func faultyTree(t testing.TB, dir string) *treetest.Faulty {
	t.Helper()
	create(t, dir, nil)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree := dirstore.NewLocal(root, dirstore.LocalOptions{NoSync: true})
	t.Cleanup(func() { tree.Close() })
	return &treetest.Faulty{Tree: tree}
}

func openFaulty(f *treetest.Faulty) session.Store { return filestore.NewOn(f, &filestore.Options{}) }
