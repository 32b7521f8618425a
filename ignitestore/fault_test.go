package ignitestore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/ignitestore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
)

const (
	opAdd      = 1002
	opReplace  = 1010
	opScan     = 2000
	opScanPage = 2001
)

// asks matches a request that does op to key.
func asks(op int16, key string) func([]byte) bool {
	return func(b []byte) bool {
		return len(b) > 6 && int16(binary.LittleEndian.Uint16(b[4:])) == op && bytes.Contains(b, []byte(key))
	}
}

// errLost stands for any failure of the store.
var errLost = errors.New("a failure")

// The cluster did what it was asked, and the answer was lost.
func TestLostAnswer(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, f.Addrs, ignitestore.Options{})
	proxy := faults.NewProxy(t, f.Addrs[0])
	behind := newStore(t, []string{proxy.Addr}, ignitestore.Options{})
	for _, tt := range []struct {
		name, why string
		create    bool
		between   int // saves by others, before it looks
		touched   bool
		want      error
		version   int64
	}{
		{"update", "it finds its own write", false, 0, false, nil, 2},
		{"update, then two by others", "the trail goes back three writes", false, 2, false, nil, 4},
		{"update, then three", "it cannot know, and a conflict would be replayed", false, 3, false, errLost, 5},
		{"update, then a touch", "a touch is no write", false, 0, true, nil, 2},
		{"create", "it finds its own write", true, 0, false, nil, 1},
		{"create, then two by others", "the trail goes back three writes", true, 2, false, nil, 3},
	} {
		rec, token := draft("ann", time.Now())
		op := int16(opAdd)
		if !tt.create {
			save(t, s, rec)
			rec = load(t, s, token)
			op = opReplace
		}
		proxy.LoseNext(1, asks(op, s.Key(rec.ID)), func() {
			for range tt.between {
				save(t, s, load(t, s, token))
			}
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
	}
	// Of a session that ended meanwhile, and of DeleteUser.
	_, token := create(t, s, "bob")
	loaded := load(t, behind, token)
	proxy.LoseNext(1, asks(opReplace, s.Key(loaded.ID)), func() {
		if err := s.Delete(t.Context(), loaded.ID); err != nil {
			t.Error(err)
		}
	})
	_, err := behind.Save(t.Context(), loaded)
	wantErr(t, "a save of what ended meanwhile", err, session.ErrNotFound)
	_, token = create(t, s, "eve")
	proxy.LoseNext(1, asks(opReplace, s.UserKey("eve")), nil)
	deleteUser(t, behind, "eve", "", 1)
	gone(t, s, token, "after DeleteUser")
}

// calls are all methods, each with what it needs.
func calls(s *ignitestore.Store, token string) map[string]func(context.Context) error {
	rec, _ := draft("ann", time.Now())
	rec.ID, rec.Version = session.ID(token), 1
	return map[string]func(context.Context) error{
		"load": func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
		"save": func(ctx context.Context) error {
			rec, _ := draft("ann", time.Now())
			_, err := s.Save(ctx, rec)
			return err
		},
		"update": func(ctx context.Context) error { _, err := s.Save(ctx, rec); return err },
		"touch":  func(ctx context.Context) error { return s.Touch(ctx, rec.ID, time.Now(), time.Now()) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, rec.ID) },
		"list": func(ctx context.Context) (last error) {
			for _, err := range s.List(ctx, "ann") {
				last = err
			}
			return last
		},
		"scan": func(ctx context.Context) (last error) {
			for _, err := range s.Scan(ctx) {
				last = err
			}
			return last
		},
		"delete user": func(ctx context.Context) error { _, err := s.DeleteUser(ctx, "ann", ""); return err },
		"check":       s.Check,
	}
}

// A connection that is half open holds nobody longer than the context, though
// the store's own timeout is an hour; when it heals, the store works again.
func TestStalled(t *testing.T) {
	f := newFake(t, fakeConf{})
	one, two := faults.NewProxy(t, f.Addrs[0]), faults.NewProxy(t, f.Addrs[0])
	for name, addrs := range map[string][]string{"one member": {one.Addr}, "two": {one.Addr, two.Addr}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, addrs, ignitestore.Options{Timeout: time.Hour})
			_, token := create(t, s, "ann")
			load(t, s, token)
			one.Stall()
			two.Stall()
			for range 2 {
				for what, call := range calls(s, token) {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
					err := call(ctx)
					cancel()
					failed(t, what, err)
					if !errors.Is(err, context.DeadlineExceeded) {
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

// A scan that is left early returns, also while the member is half open.
func TestScanLeftStalled(t *testing.T) {
	f := newFake(t, fakeConf{})
	proxy := faults.NewProxy(t, f.Addrs[0])
	s := newStore(t, []string{proxy.Addr}, ignitestore.Options{Timeout: time.Hour})
	for range 50 { // more than a page
		create(t, s, "")
	}
	for what, leave := range map[string]bool{"left": true, "to the deadline": false} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			var last error
			defer func() { done <- last }()
			for _, err := range s.Scan(ctx) {
				proxy.Stall()
				cancel()
				if last = err; leave {
					return
				}
			}
		}()
		select {
		case err := <-done:
			if leave != (err == nil) || err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: Scan does not return", what)
		}
		proxy.Heal()
	}
}

// A page that comes too late costs the member nothing: it allows a connection
// 128 cursors.
func TestScanClosesCursors(t *testing.T) {
	for name, op := range map[string]int16{"the first page": opScan, "the second": opScanPage} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, fakeConf{})
			s := newStore(t, f.Addrs, ignitestore.Options{})
			for range 100 { // more than two pages
				create(t, s, "")
			}
			comes := f.hold(op)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var release chan struct{}
			go func() { release = <-comes; cancel() }()
			var last error
			for _, last = range s.Scan(ctx) {
			}
			wantErr(t, "scan", last, context.Canceled)
			close(release)
			servers.Wait(t, "the end of the scan", 10*time.Second, func(context.Context) error {
				if log := strings.Join(f.requests(), ", "); strings.Contains(log, "close") && f.open() == 0 {
					return nil
				}
				return fmt.Errorf("%d are open", f.open())
			})
			create(t, s, "") // the connection is as good as ever
		})
	}
}

// Of two members one is down or half open: the other answers, and within the
// deadline.
func TestMembers(t *testing.T) {
	f := newFake(t, fakeConf{})
	one, two := faults.NewProxy(t, f.Addrs[0]), faults.NewProxy(t, f.Addrs[0])
	s := newStore(t, []string{one.Addr, two.Addr}, ignitestore.Options{})
	_, token := create(t, s, "ann")
	works := func(when string) {
		t.Helper()
		for range 8 { // of both members' keys
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			rec, fresh := draft("ann", time.Now())
			_, err := s.Save(ctx, rec)
			if err != nil { // a creation is not sent twice, for it may be on its way; the next goes to the other
				rec, fresh = draft("ann", time.Now())
				_, err = s.Save(ctx, rec)
			}
			if err == nil {
				rec, err = s.Load(ctx, fresh)
			}
			if err == nil {
				_, err = s.Save(ctx, rec)
			}
			if err != nil {
				t.Errorf("%s: %v", when, err)
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

// Members that died together took the user's index and left records: nobody is
// revived, and the next sign-in works.
func TestIndexLost(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, f.Addrs, ignitestore.Options{})
	_, first := create(t, s, "ann")
	load(t, s, first)
	_, nobody := create(t, s, "")
	f.lose(s.UserKey("ann"))
	gone(t, s, first, "after the index was lost")
	load(t, s, nobody)
	for rec, err := range s.Scan(t.Context()) {
		if err != nil || rec.User != "" {
			t.Errorf("Scan: %v, %v", rec, err)
		}
	}
	_, second := create(t, s, "ann")
	gone(t, s, first, "after the next sign-in")
	deleteUser(t, s, "ann", "", 1)
	gone(t, s, second, "after DeleteUser")
}

// The cache went with all members: it is made again, safe as before.
func TestCacheLost(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, f.Addrs, ignitestore.Options{})
	_, token := create(t, s, "ann")
	f.lose("")
	gone(t, s, token, "after all was lost")
	create(t, s, "ann")
	f.lose("")
	create(t, s, "ann")
	if log := strings.Join(f.requests(), ", "); strings.Count(log, "create") != 3 {
		t.Errorf("the cache was made %d times; want 3: %s", strings.Count(log, "create"), log)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

// What has expired is gone from the cluster a second later, and so is what a
// touch moved.
func TestEntriesExpire(t *testing.T) {
	now := time.Now()
	f := newFake(t, fakeConf{now: func() time.Time { return now }})
	s := newStore(t, f.Addrs, ignitestore.Options{Now: func() time.Time { return now }})
	rec, token := draft("", now)
	rec.Expires = now.Add(time.Minute)
	save(t, s, rec)
	now = now.Add(30 * time.Second)
	if err := s.Touch(t.Context(), rec.ID, now, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute - time.Millisecond)
	load(t, s, token)
	now = now.Add(time.Millisecond)
	gone(t, s, token, "at its time")
	if f.size() != 1 {
		t.Error("the entry went before its time, by a clock that is behind")
	}
	if now = now.Add(ignitestore.Slack); f.size() != 0 {
		t.Error("the entry is still there")
	}
}

// What each call asks of the cluster, in this order but for what runs side by
// side.
func TestRoundTrips(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, f.Addrs, ignitestore.Options{})
	create(t, s, "") // makes the cache
	f.requests()
	rec, token := draft("ann", time.Now())
	nobody, nobodysToken := draft("", time.Now())
	for _, tt := range []struct {
		what string
		do   func()
		want string
	}{
		{"a cart", func() { save(t, s, nobody) }, "add record"},
		{"reading it", func() { load(t, s, nobodysToken) }, "get record"},
		{"a sign-in", func() { save(t, s, rec) }, "get index, add index, add record"},
		{"the first reading", func() { rec = load(t, s, token) }, "get record, get index"},
		{"saving what was read", func() { save(t, s, rec) }, "replace record"},
		{"a touch", func() { s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Second), rec.Expires.Add(time.Second)) }, "get record, replace record"},
		{"a list", func() { s.List(t.Context(), "ann")(func(_ session.Info, err error) bool { return err == nil }) }, "get index, all record"},
		{"signing out", func() { s.Delete(t.Context(), rec.ID) }, "remove record"},
		{"signing out everywhere", func() { s.DeleteUser(t.Context(), "ann", "") }, "get index, replace index, all record"},
		{"a token of a wrong shape", func() { s.Load(t.Context(), "x"+token) }, ""},
	} {
		tt.do()
		got := strings.Join(f.requests(), ", ")
		got = strings.NewReplacer(s.UserKey("ann"), "index", s.Key(rec.ID), "record", s.Key(nobody.ID), "record").Replace(got)
		if got != tt.want {
			t.Errorf("%s: %s; want %s", tt.what, got, tt.want)
		}
	}
}
