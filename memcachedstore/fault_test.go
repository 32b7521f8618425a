package memcachedstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/memcachedstore"
)

// errLost stands for any failure of the store.
var errLost = errors.New("a failure")

// The server did what it was asked, and the answer was lost.
func TestLostAnswer(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	proxy := faults.NewProxy(t, f.Addr)
	behind := newStore(t, []string{proxy.Addr}, memcachedstore.Options{})
	saves := func(token string, n int) {
		for range n {
			save(t, s, load(t, s, token))
		}
	}
	for _, tt := range []struct {
		name, why string
		create    bool
		between   int // saves by others, before it looks
		touched   bool
		want      error
		version   int64
	}{
		{"update", "it finds its own write", false, 0, false, nil, 2},
		{"update, then one by another", "the trail goes back three writes", false, 1, false, nil, 3},
		{"update, then two", "the trail goes back three writes", false, 2, false, nil, 4},
		{"update, then three", "it cannot know, and a conflict would be replayed", false, 3, false, errLost, 5},
		{"update, then a touch", "a touch is no write", false, 0, true, nil, 2},
		{"create", "it finds its own write", true, 0, false, nil, 1},
		{"create, then two by others", "the trail goes back three writes", true, 2, false, nil, 3},
		{"create, then a touch", "a touch is no write", true, 0, true, nil, 1},
	} {
		rec, token := draft("ann", time.Now())
		verb := "add "
		if !tt.create {
			save(t, s, rec)
			rec = load(t, s, token)
			verb = "cas "
		}
		proxy.LoseNext(1, isCommand(verb+s.Key(rec.ID)), func() {
			saves(token, tt.between)
			if tt.touched {
				if err := s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
					t.Error(err)
				}
			}
		})
		_, err := behind.Save(t.Context(), rec)
		if tt.want == errLost {
			failed(t, tt.name+" ("+tt.why+")", err)
		} else {
			wantErr(t, tt.name+" ("+tt.why+")", err, tt.want)
		}
		if proxy.Lost() != 1 {
			t.Fatalf("%s: %d answers were lost", tt.name, proxy.Lost())
		}
		if v := load(t, s, token).Version; v != tt.version {
			t.Errorf("%s: version %d; want %d", tt.name, v, tt.version)
		}
		_, err = s.Save(t.Context(), rec) // what another saves from here is still a conflict
		wantErr(t, tt.name+", saved again", err, session.ErrConflict)
	}
}

func TestLostAnswerOfOthers(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	proxy := faults.NewProxy(t, f.Addr)
	behind := newStore(t, []string{proxy.Addr}, memcachedstore.Options{})
	rec, token := create(t, s, "ann")
	key := s.Key(rec.ID)
	lost := func(what string, n int) {
		t.Helper()
		if proxy.Lost() != n {
			t.Errorf("%s: %d answers were lost; want %d", what, proxy.Lost(), n)
		}
	}

	proxy.LoseNext(1, isCommand("gets "), nil)
	load(t, behind, token)
	lost("load", 1)

	proxy.LoseNext(1, isCommand("cas "+key), nil)
	if err := behind.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
		t.Errorf("touch: %v", err)
	}
	lost("touch", 1)
	if got := load(t, s, token); got.Expires.UnixMilli() != rec.Expires.Add(time.Minute).UnixMilli() || got.Version != 1 {
		t.Errorf("after the touch: expires %v, version %d", got.Expires, got.Version)
	}

	proxy.LoseNext(1, isCommand("cas "+s.UserKey("ann")), nil)
	second, secondToken := draft("ann", time.Now())
	save(t, behind, second)
	lost("an entry in the index", 1)
	load(t, s, secondToken)

	proxy.LoseNext(1, isCommand("delete "), nil)
	if err := behind.Delete(t.Context(), second.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	lost("delete", 1)
	gone(t, s, secondToken, "after Delete")

	// A save whose answer was lost, of a session that ended meanwhile.
	loaded := load(t, behind, token)
	proxy.LoseNext(1, isCommand("cas "+key), func() {
		if err := s.Delete(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
	})
	_, err := behind.Save(t.Context(), loaded)
	wantErr(t, "a save of what ended meanwhile", err, session.ErrNotFound)
	gone(t, s, token, "after that save")

	// It never comes to an end: that is a failure, not a conflict.
	third, thirdToken := create(t, s, "ann")
	loaded = load(t, behind, thirdToken)
	proxy.LoseNext(100, isCommand("gets "+s.Key(third.ID)), nil)
	_, err = behind.Load(t.Context(), thirdToken)
	failed(t, "a load that never gets an answer", err)
	loaded.Version, loaded.Tag = 1, nil
	_, err = behind.Save(t.Context(), loaded)
	failed(t, "a save that never gets an answer", err)

	_, fourth := create(t, s, "bob")
	proxy.LoseNext(1, isCommand("cas "+s.UserKey("bob")), nil)
	deleteUser(t, behind, "bob", "", 1)
	lost("delete user", 1)
	gone(t, s, fourth, "after DeleteUser")
}

// calls are all methods, each with what it needs.
func calls(s *memcachedstore.Store, token string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"load": func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
		"save": func(ctx context.Context) error {
			rec, _ := draft("ann", time.Now())
			_, err := s.Save(ctx, rec)
			return err
		},
		"touch": func(ctx context.Context) error { return s.Touch(ctx, session.ID(token), time.Now(), time.Now()) },
		"update": func(ctx context.Context) error {
			rec, _ := draft("ann", time.Now())
			rec.ID, rec.Version = session.ID(token), 1
			_, err := s.Save(ctx, rec)
			return err
		},
		"delete": func(ctx context.Context) error { return s.Delete(ctx, session.ID(token)) },
		"list": func(ctx context.Context) (last error) {
			for _, err := range s.List(ctx, "ann") {
				last = err
			}
			return last
		},
		"delete user": func(ctx context.Context) error { _, err := s.DeleteUser(ctx, "ann", ""); return err },
		"check":       s.Check,
	}
}

// A connection that is half open holds nobody longer than the context, though
// the client's own timeout is an hour; when it heals, the store works again.
func TestStalled(t *testing.T) {
	for name, replicated := range map[string]bool{"one server": false, "members": true} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, fakeConf{})
			one, two := faults.NewProxy(t, f.Addr), faults.NewProxy(t, f.Addr)
			addrs := []string{one.Addr}
			if replicated {
				addrs = append(addrs, two.Addr)
			}
			s := newStore(t, addrs, memcachedstore.Options{Timeout: time.Hour, PoolSize: 4, Replicated: replicated})
			_, token := create(t, s, "ann")
			load(t, s, token)
			one.Stall()
			two.Stall()
			for range 2 { // then all connections are busy
				for what, call := range calls(s, token) {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
					err := call(ctx)
					cancel()
					failed(t, what, err)
					if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) && what != "check" {
						t.Errorf("%s: %v; want the context's error", what, err)
					}
				}
			}
			one.Heal()
			two.Heal()
			load(t, s, token)
		})
	}
}

// A context that is cancelled ends the call too.
func TestCancelled(t *testing.T) {
	proxy := faults.NewProxy(t, newFake(t, fakeConf{}).Addr)
	s := newStore(t, []string{proxy.Addr}, memcachedstore.Options{Timeout: time.Hour})
	proxy.Stall()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := s.Load(ctx, session.NewToken()); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v", err)
	}
}

// Of three servers one is down: what lies there is an error until it is back,
// and never looked for elsewhere; the rest works.
func TestServerIsDown(t *testing.T) {
	var proxies []*faults.Proxy
	var addrs []string
	for range 3 {
		p := faults.NewProxy(t, newFake(t, fakeConf{}).Addr)
		proxies, addrs = append(proxies, p), append(addrs, p.Addr)
	}
	s := newStore(t, addrs, memcachedstore.Options{})
	ring := memcachedstore.NewRing(addrs)
	const down = 1
	var there, elsewhere []string
	for range 60 {
		_, token := create(t, s, "") // nobody's: one item each
		if ring.Pick(s.Key(session.ID(token))) == down {
			there = append(there, token)
		} else {
			elsewhere = append(elsewhere, token)
		}
	}
	proxies[down].Cut()
	for _, token := range there {
		_, err := s.Load(t.Context(), token)
		failed(t, "load from the server that is down", err)
		failed(t, "delete", s.Delete(t.Context(), session.ID(token)))
	}
	for _, token := range elsewhere {
		save(t, s, load(t, s, token))
	}
	proxies[down].Heal()
	for _, token := range there {
		save(t, s, load(t, s, token))
	}
	if len(there) == 0 || len(elsewhere) == 0 {
		t.Errorf("%d sessions are on one server and %d on the others", len(there), len(elsewhere))
	}
}

// The server has closed the idle connections (a restart, idle_timeout). No
// caller notices.
func TestIdleConnectionsClosed(t *testing.T) {
	f := newFake(t, fakeConf{})
	proxy := faults.NewProxy(t, f.Addr)
	s := newStore(t, []string{proxy.Addr}, memcachedstore.Options{})
	_, token := create(t, s, "ann")
	rec := load(t, s, token)
	closed := func() {
		proxy.Cut()
		proxy.Heal()
	}
	closed()
	save(t, s, rec)
	closed()
	load(t, s, token)
	closed()
	if err := s.Touch(t.Context(), rec.ID, time.Now().Add(time.Minute), time.Now().Add(2*time.Hour)); err != nil {
		t.Error(err)
	}
	closed()
	create(t, s, "ann")
	closed()
	deleteUser(t, s, "ann", "", 2)
}

// Replicated members: whoever answers, answers for all.
func TestMembers(t *testing.T) {
	f := newFake(t, fakeConf{}) // both lead to the same items
	one, two := faults.NewProxy(t, f.Addr), faults.NewProxy(t, f.Addr)
	s := newStore(t, []string{one.Addr, two.Addr}, memcachedstore.Options{Replicated: true})
	_, token := create(t, s, "ann")
	works := func(when string) {
		t.Helper()
		for range 8 { // of every member's keys
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			rec, fresh := draft("ann", time.Now())
			_, err := s.Save(ctx, rec)
			if err != nil { // a creation is not sent twice, for it may be on its way; the next goes to the other
				rec, fresh = draft("ann", time.Now())
				_, err = s.Save(ctx, rec)
			}
			if err != nil {
				t.Errorf("%s: create: %v", when, err)
			}
			rec, err = s.Load(ctx, fresh)
			if err != nil {
				t.Fatalf("%s: load: %v", when, err)
			}
			if _, err := s.Save(ctx, rec); err != nil {
				t.Errorf("%s: save: %v", when, err)
			}
			cancel()
		}
		load(t, s, token)
	}
	works("all is well")
	for name, hurt := range map[string]func(*faults.Proxy){"down": (*faults.Proxy).Cut, "half open": (*faults.Proxy).Stall} {
		for i, p := range []*faults.Proxy{one, two} {
			hurt(p)
			works(name)
			// The other alone answers, and then is lost as well.
			other := []*faults.Proxy{two, one}[i]
			other.Cut()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			_, err := s.Load(ctx, token)
			cancel()
			failed(t, name+", and the other down", err)
			p.Heal()
			works("the first is back")
			other.Heal()
			works("both are back")
		}
	}
}

// An answer that was lost on one member is looked for on the next.
func TestMembersLostAnswer(t *testing.T) {
	f := newFake(t, fakeConf{})
	for range 8 {
		one, two := faults.NewProxy(t, f.Addr), faults.NewProxy(t, f.Addr)
		s := newStore(t, []string{one.Addr, two.Addr}, memcachedstore.Options{Replicated: true})
		_, token := create(t, s, "ann")
		rec := load(t, s, token)
		for _, p := range []*faults.Proxy{one, two} {
			p.LoseNext(1, isCommand("cas "+s.Key(rec.ID)), p.Cut)
		}
		if _, err := s.Save(t.Context(), rec); err != nil {
			t.Errorf("save: %v", err)
		}
		if v := load(t, s, token).Version; v != 2 || one.Lost()+two.Lost() != 1 {
			t.Errorf("version %d; %d and %d answers were lost", v, one.Lost(), two.Lost())
		}
	}
}

// What a server sends that nobody can read is an error that shows none of it.
func TestGarbledAnswer(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	rec, token := create(t, s, "")
	loaded := load(t, s, token)
	// The length is wrong, so the rest of the value looks like answers.
	f.garble(s.Key(rec.ID), "VALUE "+s.Key(rec.ID)+" 0 3 1\r\nabc\r\nsecret of somebody else\r\n")
	_, err := s.Load(t.Context(), token)
	failed(t, "load", err)
	if err != nil && (contains(err, "secret") || contains(err, token)) {
		t.Errorf("the error shows what the server sent: %v", err)
	}
	f.garble(s.Key(rec.ID), "VALUE "+s.Key("another")+" 0 1 1\r\nx\r\nEND\r\n")
	_, err = s.Load(t.Context(), token)
	failed(t, "an answer for another key", err)
	f.garble(s.Key(rec.ID), "secret of somebody else\r\n")
	_, err = s.Save(t.Context(), loaded)
	failed(t, "save", err)
	if err != nil && contains(err, "secret") {
		t.Errorf("the error shows what the server sent: %v", err)
	}
	f.garble(s.Key(rec.ID), "")
	load(t, s, token)
}

// A server that promises 4 GiB, or whose answer has no end, costs neither that
// memory nor the connection's slot.
func TestHostileServer(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(key string, i int) string // what it says next; "": nothing more
	}{
		{"a huge item", func(key string, i int) string {
			if i > 0 {
				return ""
			}
			return "VALUE " + key + " 0 4294967295 1\r\n"
		}},
		{"items without end", func(_ string, i int) string { return fmt.Sprintf("VALUE k%d 0 1 1\r\nx\r\n", i) }},
		{"the same item without end", func(key string, _ int) string { return "VALUE " + key + " 0 1 1\r\nx\r\n" }},
		{"a line without end", func(string, int) string { return "x" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			addr := hostile(t, tt.say)
			s := newStore(t, []string{addr}, memcachedstore.Options{Timeout: time.Hour, PoolSize: 1})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 3 { // one after the other has the slot
				_, err := s.Load(t.Context(), session.NewToken())
				failed(t, "load", err)
			}
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
				t.Errorf("it took %d bytes", took)
			}
		})
	}
}

// hostile is a server that answers a get with whatever say does, until the
// client hangs up; the test waits for that.
func hostile(t *testing.T, say func(key string, i int) string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	serve := func(c net.Conn) {
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return
		}
		key := strings.TrimSpace(strings.TrimPrefix(line, "gets "))
		for i := 0; ; i++ {
			text := say(key, i)
			if text == "" {
				c.Read(make([]byte, 1)) // returns when the client hangs up
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	return l.Addr().String()
}
