package hazelcaststore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

func TestHazelcast(t *testing.T) {
	cluster := servers.Hazelcast(t, 2)
	addrs := cluster.Addrs()
	opts := hazelcaststore.Options{Cluster: cluster.Cluster}
	url := func(path string) string {
		return "hazelcast://" + strings.Join(addrs, ",") + path + "?timeout=10s&cluster=" + cluster.Cluster
	}
	t.Run("every promise", func(t *testing.T) { storetest.Run(t, onMembers(addrs, opts)) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, onMembers(addrs, opts)) })
	t.Run("1600 increments through both members", func(t *testing.T) { count(t, onMembers(addrs, opts)(t)) })
	t.Run("two processes", func(t *testing.T) { ledger.TwoProcesses(t, url("/sessions")+"&prefix="+newPrefix(), 4, 100) })
	t.Run("the start", func(t *testing.T) { testStart(t, url) })
	t.Run("members come and go", func(t *testing.T) { testMembers(t, cluster) })
}

// count lets 8 writers add 200 each to one record.
func count(t *testing.T, b storetest.Backend) {
	handles := []session.Store{b.Open(), b.Open()}
	rec, token := draft("ann", time.Now())
	rec.Data = []byte("0")
	save(t, handles[0], rec)
	var wg sync.WaitGroup
	for w := range 8 {
		s := handles[w%2]
		wg.Go(func() {
			for range 200 {
				for {
					rec, err := s.Load(t.Context(), token)
					if err != nil {
						t.Error(err)
						return
					}
					var n int
					fmt.Sscan(string(rec.Data), &n)
					rec.Data = fmt.Append(nil, n+1)
					if _, err = s.Save(t.Context(), rec); err == nil {
						break
					} else if !errors.Is(err, session.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if got := load(t, handles[1], token); string(got.Data) != "1600" || got.Version != 1601 {
		t.Errorf("the counter is %s at version %d; want 1600 at 1601", got.Data, got.Version)
	}
}

// What must not start does not, and the message has the mend.
func testStart(t *testing.T, url func(path string) string) {
	t.Setenv("HZ_PASSWORD", "secret")
	for _, tt := range []struct{ url, mend string }{
		{url("/sessions"), ""},
		{url(""), ""},
		{url("/small") + "&insecure_eviction=true", ""},
		{url("/undeclared"), `no cache "undeclared" is declared there; declare it (hazelcast.yaml: cache: undeclared: backup-count: 1`},
		{url("/single"), "give it backup-count: 1"},
		{url("/async"), "only asynchronous backups"},
		{url("/small"), "evicts entries at 10000 (ENTRY_COUNT)"},
		{url("/objects"), "give it in-memory-format: BINARY"},
		{url("/reading"), "lives (Accessed); take the expiry-policy-factory out"},
		{url("/sessions") + "x", "check cluster=NAME"},
		{url("/sessions") + "&username=app&password=env:HZ_PASSWORD", "of which the open source edition takes neither"},
	} {
		s, err := session.Open(t.Context(), tt.url)
		if err == nil {
			defer session.Close(s)
		}
		switch {
		case tt.mend == "" && err != nil:
			t.Errorf("%s: %v", tt.url, err)
		case tt.mend != "" && (!errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend)):
			t.Errorf("%s: %v; want ErrConfig with %q", tt.url, err, tt.mend)
		}
	}
}

// testMembers kills a member under load, lets it come back, lets one leave and
// one join. Nothing that was acknowledged is lost, nobody is signed out, what
// ended stays so, and what is to expire does.
func testMembers(t *testing.T, cluster *servers.HazelcastServers) {
	const members = 3 // with the one that joins
	opts := hazelcaststore.Options{Cluster: cluster.Cluster, Prefix: newPrefix(), Timeout: time.Second}
	s := newStore(t, cluster.Addrs(), opts)
	l := ledger.Start(t, s, 8, 32)
	ended, endedToken := create(t, s, "eve")
	deleteUser(t, s, "eve", "", 1)
	var short []string
	for range 100 {
		rec, token := draft("bob", time.Now())
		rec.Expires = time.Now().Add(4 * time.Second)
		save(t, s, rec)
		short = append(short, token)
	}
	l.During("kill -9", func() { cluster.Members[0].Kill(); l.Progress() })
	l.Answered(answeredWithin)
	_, late := create(t, s, "eve")
	l.During("return", func() { cluster.Members[0].Restart(t); l.Progress() })
	l.Answered(answeredWithin)
	l.During("SIGTERM", func() { cluster.Members[1].Stop(t); l.Progress() })
	l.Answered(answeredWithin)
	load(t, s, late)
	l.During("join", func() { cluster.Join(t); l.Progress() })
	l.Answered(answeredWithin)
	if n := len(cluster.Addrs()); n != members {
		t.Errorf("%d members", n)
	}
	deleteUser(t, s, "eve", "", 1)
	gone(t, s, late, "after DeleteUser")
	gone(t, s, endedToken, "after members came and went")
	if _, err := s.Save(t.Context(), ended); err != nil { // the ID is free
		t.Error(err)
	}
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d acknowledged additions are lost", lost)
	}

	// The record says when it expires, and the members drop what is over by
	// themselves, also those that came to have it later.
	for _, token := range short {
		gone(t, s, token, "after its end")
	}
	behind := newStore(t, cluster.Addrs(), hazelcaststore.Options{Cluster: cluster.Cluster, Prefix: opts.Prefix, Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	for _, token := range short {
		servers.Wait(t, "the removal of an entry", 20*time.Second, func(context.Context) error {
			if _, err := behind.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
				return fmt.Errorf("it is there: %v", err)
			}
			return nil
		})
	}
}

// answeredWithin is the longest that anybody waits for an acknowledgement while
// members come and go.
const answeredWithin = 2 * time.Second
