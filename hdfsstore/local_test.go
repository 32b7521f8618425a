package hdfsstore_test

import (
	"os"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/hdfsstore"
	"github.com/distsession/session/internal/dirstore"
	"github.com/distsession/session/storetest"
)

// Without an HDFS: the same code keeps its promises on the local disk.
func TestLocal(t *testing.T)         { storetest.Run(t, local) }
func TestLocalOverHTTP(t *testing.T) { storetest.RunHTTP(t, local) }

func local(t *testing.T) storetest.Backend {
	dir, clock := t.TempDir(), &storetest.Clock{}
	return storetest.Backend{
		Open: func() session.Store {
			root, err := os.OpenRoot(dir)
			must(t, err)
			tree := dirstore.NewLocal(root, dirstore.LocalOptions{NoSync: true})
			t.Cleanup(func() { tree.Close() })
			s := hdfsstore.On(tree, &hdfsstore.Options{Now: clock.Now})
			must(t, s.Prepare(t.Context()))
			return s
		},
		Advance: clock.Advance,
	}
}
