package filestore_test

import (
	"flag"
	"os"
	"strconv"
	"sync"
	"testing"

	"github.com/distsession/session/filestore"
	"github.com/distsession/session/internal/dirstore/treetest"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

func TestGluster(t *testing.T) {
	g := servers.Gluster(t)
	fewerRounds(t)
	fresh := func(t *testing.T) storetest.Backend { return backend(t, onGluster(t, g)...) }
	t.Run("store", func(t *testing.T) { storetest.Run(t, fresh) })
	t.Run("HTTP", func(t *testing.T) { storetest.RunHTTP(t, fresh) })
}

// fewerRounds makes storetest run as with -short: here one call of the store is
// a hundred of the servers'. Its increments are those of TestGlusterIncrements.
func fewerRounds(t *testing.T) {
	t.Helper()
	short := flag.Lookup("test.short")
	was := short.Value.String()
	must(t, short.Value.Set("true"))
	t.Cleanup(func() { must(t, short.Value.Set(was)) })
}

// Eight writers over two mounts add to the number in one session.
func TestGlusterIncrements(t *testing.T) {
	g := servers.Gluster(t)
	dirs := onGluster(t, g)
	opts := &filestore.Options{InsecureNoSync: true} // what it writes is the same
	stores := []*filestore.Store{create(t, dirs[0], opts), create(t, dirs[1], opts)}
	rec, token := treetest.Record("ann")
	rec.Data = []byte("0")
	_, err := stores[0].Save(t.Context(), rec)
	must(t, err)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				if err := addOne(t.Context(), stores[w%2], token); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		now, err := s.Load(t.Context(), token)
		must(t, err)
		if want := strconv.Itoa(writers * each); string(now.Data) != want || now.Version != writers*each+1 {
			t.Errorf("%s at version %d; want %s", now.Data, now.Version, want)
		}
	}
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
