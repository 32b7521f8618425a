//go:build unix && !aix && !solaris

package dirstore_test

import (
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/internal/dirstore/treetest"
)

func TestRenamingEveryStep(t *testing.T) {
	dir := t.TempDir()
	tree := openLocal(t, dir)
	open := func(f *treetest.Faulty) session.Store {
		return dirstore.New(f, &dirstore.Renaming{Tree: f, Limit: dirstore.TextLimit(maxData)}, dirstore.Options{Name: "test"})
	}
	well := &treetest.Faulty{Tree: tree}
	if err := open(well).(*dirstore.Store).Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	treetest.EveryStep(t, dir, well, open)
}
