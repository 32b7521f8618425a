package ignitestore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore"
	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

// answeredWithin is the longest that anybody waits for an acknowledgement while
// members come and go.
const answeredWithin = 2 * time.Second

func TestIgnite(t *testing.T) {
	cluster := servers.Ignite(t, 2, servers.IgniteOptions{})
	addrs := cluster.Addrs()
	every := "ignite://" + strings.Join(addrs, ",")
	t.Run("every promise", func(t *testing.T) { storetest.Run(t, onMembers(addrs)) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, onMembers(addrs)) })
	t.Run("Check", func(t *testing.T) {
		if err := newStore(t, addrs, ignitestore.Options{}).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("what Open refuses", func(t *testing.T) { refusedCaches(t, addrs[0]) })
	t.Run("its port for Redis", func(t *testing.T) {
		// The first answer of a cold member may come after Open's second is over.
		var err error
		for range 5 {
			var s session.Store
			if s, err = session.Open(t.Context(), "redis://"+cluster.Members[0].RedisAddr); err != nil {
				break
			}
			session.Close(s)
		}
		if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), "ignite://") {
			t.Errorf("%v; want ErrConfig with ignite:// in it", err)
		}
	})
	t.Run("1600 increments through both members", func(t *testing.T) { count(t, onMembers(addrs)(t)) })
	t.Run("two processes", func(t *testing.T) {
		ledger.TwoProcesses(t, every+"?timeout=10s&prefix="+newPrefix(), 4, 200)
	})
	t.Run("members come and go", func(t *testing.T) { comeAndGo(t, cluster) })
	t.Run("all members go", func(t *testing.T) { allGo(t, cluster) })
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

// comeAndGo counts what is acknowledged while members are killed, return, stop
// and join.
func comeAndGo(t *testing.T, cluster *servers.IgniteServers) {
	prefix := newPrefix()
	s := newStore(t, cluster.Addrs(), ignitestore.Options{Prefix: prefix})
	l := ledger.Start(t, s, 4, 32)
	first := cluster.Members[0]
	_, token := create(t, s, "eve")
	shortLived := func() (tokens []string) {
		for range 50 {
			rec, token := draft("", time.Now())
			rec.Expires = time.Now().Add(2 * time.Second)
			save(t, s, rec)
			tokens = append(tokens, token)
		}
		return tokens
	}
	expired := shortLived()
	l.During("kill -9", func() {
		first.Kill()
		l.Progress()
	})
	l.Answered(answeredWithin)
	deleteUser(t, s, "eve", "", 1)
	l.During("return", func() { first.Restart(t) })
	l.Answered(answeredWithin)
	l.Progress()
	gone(t, s, token, "after the member is back")
	expired = append(expired, shortLived()...)
	l.During("SIGTERM", func() {
		first.Stop(t)
		l.Progress()
	})
	l.Answered(answeredWithin)
	l.During("a new member joins", func() { cluster.Join(t) })
	l.Answered(answeredWithin)
	l.During("return", func() { first.Restart(t) })
	l.Answered(answeredWithin)
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d acknowledged additions were lost", lost)
	}
	for _, token := range expired {
		gone(t, s, token, "after its time")
	}
	entriesGo(t, cluster.Addrs()[1], prefix, expired)
}

// entriesGo waits until the cluster itself has dropped what has expired, also
// what outlived its first member.
func entriesGo(t *testing.T, addr, prefix string, tokens []string) {
	t.Helper()
	c, err := wire.Dial(t.Context(), addr, wire.Options{MaxFrame: 1 << 24})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var keys []string
	for _, token := range tokens {
		keys = append(keys, prefix+session.ID(token))
	}
	servers.Wait(t, "the end of entries that have expired", 20*time.Second, func(ctx context.Context) error {
		left, err := c.GetAll(ctx, wire.CacheID("sessions"), keys)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d of %d are there", len(left), len(keys))
		}
		return err
	})
}

// allGo takes all members down: that is a failure and no "no session". They
// come back without the cache, which is made again; users are signed out.
func allGo(t *testing.T, cluster *servers.IgniteServers) {
	s := newStore(t, cluster.Addrs(), ignitestore.Options{Prefix: newPrefix(), Timeout: time.Second})
	rec, token := create(t, s, "ann")
	loaded := load(t, s, token)
	for _, m := range cluster.Members {
		m.Kill()
	}
	_, err := s.Load(t.Context(), token)
	failed(t, "load while all are down", err)
	cluster.Members[0].Restart(t)
	servers.Wait(t, "the first answer", 30*time.Second, func(ctx context.Context) error {
		if _, err := s.Load(ctx, token); !errors.Is(err, session.ErrNotFound) {
			return fmt.Errorf("%w", err)
		}
		return nil
	})
	_, err = s.Save(t.Context(), loaded)
	wantErr(t, "a save of what was lost", err, session.ErrNotFound)
	_, err = s.Save(t.Context(), rec)
	if err != nil {
		t.Errorf("a sign-in: %v", err)
	}
	load(t, s, token)
}

// refusedCaches are there already, and lose what they acknowledge.
func refusedCaches(t *testing.T, addr string) {
	c, err := wire.Dial(t.Context(), addr, wire.Options{MaxFrame: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		name string
		make wire.NewCache
		mend string // "": it is fit
	}{
		{"nobackups", wire.NewCache{Mode: wire.Partitioned, Atomicity: wire.Atomic, Sync: wire.FullSync}, "set backups to 1"},
		{"primarysync", wire.NewCache{Mode: wire.Partitioned, Atomicity: wire.Atomic, Backups: 1, Sync: 2}, "FULL_SYNC"},
		{"replicated", wire.NewCache{Mode: wire.Replicated, Atomicity: wire.Atomic, Sync: wire.FullSync, EagerTTL: true}, ""},
	} {
		if err := c.CreateCache(t.Context(), tt.name, tt.make); err != nil {
			t.Fatal(err)
		}
		s, err := session.Open(t.Context(), "ignite://"+addr+"/"+tt.name)
		switch {
		case tt.mend == "" && err == nil:
			count(t, storetest.Backend{Open: func() session.Store { return s }})
			session.Close(s)
		case tt.mend == "":
			t.Errorf("%s: %v", tt.name, err)
		default:
			wantErr(t, tt.name, err, session.ErrConfig)
			if err != nil && !strings.Contains(err.Error(), tt.mend) {
				t.Errorf("%s: %v; want %q in it", tt.name, err, tt.mend)
			}
		}
	}
}
