package memcachedstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/memcachedstore"
	"github.com/distsession/session/storetest"
)

func memcacheds(t *testing.T, n int, conf ...string) (started []*servers.MemcachedServer, addrs []string) {
	for range n {
		s := servers.Memcached(t, conf...)
		started, addrs = append(started, s), append(addrs, s.Addr)
	}
	return started, addrs
}

func TestMemcached(t *testing.T) {
	_, addrs := memcacheds(t, 3)
	t.Run("one server", func(t *testing.T) { storetest.Run(t, onServers(addrs[:1], false)) })
	t.Run("three servers", func(t *testing.T) { storetest.Run(t, onServers(addrs, false)) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, onServers(addrs, false)) })
	t.Run("Check", func(t *testing.T) {
		if err := newStore(t, addrs, memcachedstore.Options{}).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("two processes", func(t *testing.T) {
		ledger.TwoProcesses(t, "memcached://"+strings.Join(addrs, ",")+"?timeout=10s&prefix="+newPrefix(), 4, 200)
	})
}

// What the server refuses for its size harms nothing, whoever finds out.
func TestTooLarge(t *testing.T) {
	s := newStore(t, []string{servers.Memcached(t).Addr}, memcachedstore.Options{MaxItem: 4 << 20}) // wrong
	_, token := create(t, s, "ann")
	rec := load(t, s, token)
	for _, size := range []int{1 << 20, 3 << 20} {
		rec.Data = make([]byte, size)
		_, err := s.Save(t.Context(), rec)
		wantErr(t, fmt.Sprint(size), err, session.ErrTooLarge)
		if got := load(t, s, token); got.Version != 1 || string(got.Data) != `{"n":1}` {
			t.Errorf("%d bytes: the session is at version %d", size, got.Version)
		}
	}
	// The default limit is one that the server keeps.
	s = newStore(t, []string{servers.Memcached(t).Addr}, memcachedstore.Options{})
	_, token = create(t, s, "ann")
	rec = load(t, s, token)
	rec.Data = make([]byte, s.MaxItem()-300)
	save(t, s, rec)
	if got := load(t, s, token); len(got.Data) != len(rec.Data) {
		t.Errorf("%d bytes came back", len(got.Data))
	}
}

// A restart and flush_all sign users out. Nothing fails after, and nobody is
// revived: not by what other servers still have, and not by what was under way.
func TestRestart(t *testing.T) {
	for _, what := range []string{"kill -9", "flush_all"} {
		t.Run(what, func(t *testing.T) {
			started, addrs := memcacheds(t, 3)
			s := newStore(t, addrs, memcachedstore.Options{})
			type user struct {
				name, token  string
				index, where int // the servers of index and record
				loaded       *session.Record
			}
			ring := memcachedstore.NewRing(addrs)
			var users []user
			for i := range 40 {
				u := user{name: fmt.Sprintf("user%d", i)}
				_, u.token = create(t, s, u.name)
				u.loaded = load(t, s, u.token)
				u.index, u.where = ring.Pick(s.UserKey(u.name)), ring.Pick(s.Key(u.loaded.ID))
				users = append(users, u)
			}
			const hurt = 1
			if what == "flush_all" {
				started[hurt].Ask(t, "flush_all")
			} else {
				started[hurt].Kill()
				for _, u := range users {
					if _, err := s.Load(t.Context(), u.token); u.index == hurt || u.where == hurt {
						failed(t, "load while the server is down", err)
					} else if err != nil {
						t.Errorf("a session on the other servers: %v", err)
					}
				}
				started[hurt].Restart(t)
			}
			signedOut := 0
			for _, u := range users {
				if u.index != hurt && u.where != hurt {
					save(t, s, load(t, s, u.token))
					continue
				}
				signedOut++
				gone(t, s, u.token, "after "+what)
				create(t, s, u.name) // a sign-in makes a new index
				gone(t, s, u.token, "after the next sign-in")
				// The record may still be there: then a save may go through, and
				// the session stays dead all the same.
				if _, err := s.Save(t.Context(), u.loaded); err != nil && !errors.Is(err, session.ErrNotFound) {
					t.Errorf("a save under way: %v", err)
				}
				gone(t, s, u.token, "after a late save")
				deleteUser(t, s, u.name, "", 1)
			}
			if signedOut == 0 || signedOut == len(users) {
				t.Errorf("%d of %d were signed out", signedOut, len(users))
			}
		})
	}
}

// A full memory signs users out. What is there is whole, and what was ended
// stays so: nobody is revived by an index that went, or by a record that stayed.
func TestFullMemory(t *testing.T) {
	server := servers.Memcached(t, "-m", "2", "-t", "1")
	s := newStore(t, []string{server.Addr}, memcachedstore.Options{})
	ended := map[string]bool{}
	all := map[string]string{} // token to its values
	var tokens []string
	for i := range 600 {
		user := fmt.Sprintf("user%d", i%40)
		rec, token := draft(user, time.Now())
		rec.Data = fmt.Appendf(nil, `{"i":%d,"pad":%q}`, i, strings.Repeat("x", 8000))
		if _, err := s.Save(t.Context(), rec); err != nil {
			failed(t, "a sign-in on a full server", err)
			continue
		}
		all[token] = string(rec.Data)
		tokens = append(tokens, token)
		switch {
		case i%10 == 3:
			old := tokens[len(tokens)/2]
			if err := s.Delete(t.Context(), session.ID(old)); err != nil {
				t.Fatalf("Delete: %v", err)
			}
			ended[old] = true
		case i%50 == 7:
			if _, err := s.DeleteUser(t.Context(), user, ""); err != nil {
				t.Fatalf("DeleteUser: %v", err)
			}
			for j, tok := range tokens {
				if strings.HasPrefix(all[tok], fmt.Sprintf(`{"i":%d,`, j)) && fmt.Sprintf("user%d", j%40) == user {
					ended[tok] = true
				}
			}
		}
	}
	live := 0
	for _, token := range tokens {
		rec, err := s.Load(t.Context(), token)
		switch {
		case errors.Is(err, session.ErrNotFound):
		case err != nil:
			t.Errorf("Load: %v", err)
		case ended[token]:
			t.Error("a session that was ended is live")
		case string(rec.Data) != all[token]:
			t.Errorf("a session holds %.40q; want %.40q", rec.Data, all[token])
		default:
			live++
		}
	}
	if live == 0 || live == len(tokens) || len(ended) < 20 {
		t.Errorf("%d of %d sessions are live, %d were ended; the test wants some of each", live, len(tokens), len(ended))
	}
	if err := s.Check(t.Context()); err == nil || !contains(err, "a larger -m") {
		t.Errorf("Check: %v", err)
	}
}

// With -M a full server refuses what is new; what is there stays, and can end.
func TestFullMemoryWithoutEvictions(t *testing.T) {
	server := servers.Memcached(t, "-m", "2", "-M", "-t", "1")
	s := newStore(t, []string{server.Addr}, memcachedstore.Options{})
	var tokens []string
	for {
		rec, token := draft("", time.Now())
		rec.Data = make([]byte, 20_000)
		if _, err := s.Save(t.Context(), rec); err != nil {
			failed(t, "a new session on a full server", err)
			break
		}
		if tokens = append(tokens, token); len(tokens) > 1000 {
			t.Fatal("the server does not fill")
		}
	}
	refused := 0
	for _, token := range tokens {
		rec := load(t, s, token)
		want := *rec
		rec.Data = make([]byte, 400_000) // there is room for some of that size
		if _, err := s.Save(t.Context(), rec); err == nil {
			continue
		} else {
			failed(t, "a session that grows", err)
		}
		refused++
		if got := load(t, s, token); got.Version != 1 || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("a save that was refused leaves version %d, %d bytes", got.Version, len(got.Data))
		}
	}
	if refused == 0 {
		t.Error("no session was refused to grow")
	}
	if err := s.Delete(t.Context(), session.ID(tokens[0])); err != nil {
		t.Errorf("Delete: %v", err)
	}
	gone(t, s, tokens[0], "after Delete")
	create(t, s, "")
}

// A server that is frozen, and then goes on: 503 within the deadline, nothing
// that was acknowledged is lost.
func TestFrozen(t *testing.T) {
	server := servers.Memcached(t)
	s := newStore(t, []string{server.Addr}, memcachedstore.Options{})
	l := ledger.Start(t, s, 4, 8)
	l.During("frozen", func() {
		server.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.Load(ctx, session.NewToken())
		failed(t, "load", err)
		l.Fails()
		server.Resume()
	})
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

// The network breaks and heals under load.
func TestNetworkBreaks(t *testing.T) {
	proxy := faults.NewProxy(t, servers.Memcached(t).Addr)
	s := newStore(t, []string{proxy.Addr}, memcachedstore.Options{})
	l := ledger.StartHTTP(t, s, 4, 8)
	for name, hurt := range map[string]func(){"cut": proxy.Cut, "half open": proxy.Stall} {
		l.During(name, func() { hurt(); l.Fails(); proxy.Heal() })
		l.Progress()
	}
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
}

func TestInfinispan(t *testing.T) {
	cluster := servers.Infinispan(t, 2)
	addrs := cluster.Addrs()
	t.Run("every promise", func(t *testing.T) { storetest.Run(t, onMembers(addrs)) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, onMembers(addrs)) })
	t.Run("Check", func(t *testing.T) {
		if err := newStore(t, addrs, memcachedstore.Options{Replicated: true}).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("1600 increments through both members", func(t *testing.T) { count(t, onMembers(addrs)(t)) })
	t.Run("two processes", func(t *testing.T) {
		ledger.TwoProcesses(t, "infinispan://"+strings.Join(addrs, ",")+"?timeout=10s&prefix="+newPrefix(), 4, 200)
	})
	t.Run("members come and go", func(t *testing.T) { comeAndGo(t, cluster) })
}

// answeredWithin is the longest that anybody waits for an acknowledgement while
// members come and go.
const answeredWithin = 2 * time.Second

// comeAndGo counts what is acknowledged while members are killed, return, stop
// and join, and sees sessions end on time.
func comeAndGo(t *testing.T, cluster *servers.InfinispanServers) {
	s := newStore(t, cluster.Addrs(), memcachedstore.Options{Replicated: true, Prefix: newPrefix()})
	l := ledger.Start(t, s, 4, 8)
	rec, token := create(t, s, "eve")
	var expired []*session.Record
	var tokens []string
	shortLived := func() {
		for range 20 {
			rec, token := draft("", time.Now())
			rec.Expires = time.Now().Add(2 * time.Second)
			save(t, s, rec)
			expired, tokens = append(expired, rec), append(tokens, token)
		}
	}
	first := cluster.Members[0]
	shortLived()
	l.During("kill -9", func() { first.Kill(); l.Progress() })
	l.Answered(answeredWithin)
	deleteUser(t, s, "eve", "", 1)
	l.During("return", func() { first.Restart(t) })
	l.Answered(answeredWithin)
	l.Progress()
	gone(t, s, token, "after the member is back")
	if _, err := s.Save(t.Context(), rec); err != nil { // the ID is free
		t.Error(err)
	}
	shortLived()
	l.During("SIGTERM", func() { first.Stop(t); l.Progress() })
	l.Answered(answeredWithin)
	l.During("a new member joins", func() { cluster.Join(t) })
	l.Answered(answeredWithin)
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d lost", lost)
	}
	for _, token := range tokens {
		gone(t, s, token, "after its time")
	}
	servers.Wait(t, "the end of items that have expired", 20*time.Second, func(context.Context) error {
		for _, rec := range expired {
			if lines := cluster.Members[1].Ask(t, "get "+s.Key(rec.ID)); len(lines) != 1 || lines[0] != "END" {
				return fmt.Errorf("%s is there: %d lines", rec.ID, len(lines))
			}
		}
		return nil
	})
}

// onMembers are places whose handles talk to one member each, by turns, so
// that what one writes is read through the other.
func onMembers(addrs []string) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		b := onServers(addrs, true)(t)
		clock, prefix := &storetest.Clock{}, newPrefix()
		b.Advance = clock.Advance
		turn := 0
		b.Open = func() session.Store {
			turn++
			one := addrs[turn%len(addrs)]
			return newStore(t, []string{one}, memcachedstore.Options{Prefix: prefix, Replicated: true, Now: clock.Now})
		}
		return b
	}
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
