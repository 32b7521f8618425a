package hazelcaststore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/faults"
)

// isRequest matches what is sent of this type for this key.
func isRequest(kind uint32, key string) func([]byte) bool {
	return func(b []byte) bool {
		return bytes.Contains(b, binary.LittleEndian.AppendUint32([]byte{0x00, 0xC0}, kind)) && bytes.Contains(b, []byte(key))
	}
}

const (
	kindGet     = 0x130D00
	kindAdd     = 0x131200
	kindRemove  = 0x131600
	kindReplace = 0x131700
)

// The member did what it was asked, and the answer was lost: the other member is
// asked what became of it.
func TestLostAnswer(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{})
	for _, tt := range []struct {
		name, why string
		create    bool
		between   int // saves by others, before it looks
		unknown   bool
		version   int64
	}{
		{"update", "it finds its own write", false, 0, false, 2},
		{"update, then two by others", "the trail goes back three writes", false, 2, false, 4},
		{"update, then three", "it cannot know, and a conflict would be replayed", false, 3, true, 5},
		{"create", "it finds its own write", true, 0, false, 1},
		{"create, then two by others", "the trail goes back three writes", true, 2, false, 3},
	} {
		one, two := faults.NewProxy(t, f.member()), faults.NewProxy(t, f.member())
		behind := newStore(t, []string{one.Addr, two.Addr}, hazelcaststore.Options{})
		rec, token := draft("ann", time.Now())
		kind := uint32(kindAdd)
		if !tt.create {
			save(t, s, rec)
			rec = load(t, s, token)
			kind = kindReplace
		}
		for _, p := range []*faults.Proxy{one, two} {
			p.LoseNext(1, isRequest(kind, s.Key(rec.ID)), func() {
				for range tt.between {
					save(t, s, load(t, s, token))
				}
				p.Cut() // so it cannot ask this one again
			})
		}
		_, err := behind.Save(t.Context(), rec)
		if tt.unknown {
			failed(t, tt.name+" ("+tt.why+")", err)
		} else if err != nil {
			t.Errorf("%s (%s): %v", tt.name, tt.why, err)
		}
		if n := one.Lost() + two.Lost(); n != 1 {
			t.Fatalf("%s: %d answers were lost", tt.name, n)
		}
		if v := load(t, s, token).Version; v != tt.version {
			t.Errorf("%s: version %d; want %d", tt.name, v, tt.version)
		}
	}
}

// More members were lost at once than there are backups, and took the user's
// index with them: nobody is revived, and the next sign-in works.
func TestIndexLost(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{})
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

// A member that starts or stops is passed by; if both do, it is a failure and no
// sign-out.
func TestNotActive(t *testing.T) {
	f := newFake(t, sound)
	addrs := []string{f.member(), f.member()}
	s := newStore(t, addrs, hazelcaststore.Options{})
	_, token := create(t, s, "ann")
	for _, addr := range addrs {
		f.stopping(addr, true)
		for range 10 {
			save(t, s, load(t, s, token))
		}
		f.stopping(addr, false)
	}
	f.stopping(addrs[0], true)
	f.stopping(addrs[1], true)
	_, err := s.Load(t.Context(), token)
	failed(t, "both stop", err)
}

// calls are all methods, each with what it needs.
func calls(s *hazelcaststore.Store, token string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"load": func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
		"create": func(ctx context.Context) error {
			rec, _ := draft("ann", time.Now())
			_, err := s.Save(ctx, rec)
			return err
		},
		"update": func(ctx context.Context) error {
			rec, _ := draft("ann", time.Now())
			rec.ID, rec.Version = session.ID(token), 1
			_, err := s.Save(ctx, rec)
			return err
		},
		"touch":  func(ctx context.Context) error { return s.Touch(ctx, session.ID(token), time.Now(), time.Now()) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, session.ID(token)) },
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

// Connections that are half open hold nobody longer than the context; when they
// heal, the store works again.
func TestStalled(t *testing.T) {
	f := newFake(t, sound)
	one, two := faults.NewProxy(t, f.member()), faults.NewProxy(t, f.member())
	for name, addrs := range map[string][]string{"one member": {one.Addr}, "two members": {one.Addr, two.Addr}} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, addrs, hazelcaststore.Options{Timeout: time.Hour, KeepAlive: time.Hour})
			_, token := create(t, s, "ann")
			load(t, s, token)
			one.Stall()
			two.Stall()
			for what, call := range calls(s, token) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
				err := call(ctx)
				cancel()
				failed(t, what, err)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v; want the context's error", what, err)
				}
				ctx, cancel = context.WithCancel(t.Context())
				cancel()
				failed(t, what+", cancelled", call(ctx))
			}
			one.Heal()
			two.Heal()
			load(t, s, token)
		})
	}
}

// One of two members is down, or half open: the other answers in time.
func TestOneMemberLost(t *testing.T) {
	f := newFake(t, sound)
	one, two := faults.NewProxy(t, f.member()), faults.NewProxy(t, f.member())
	s := newStore(t, []string{one.Addr, two.Addr}, hazelcaststore.Options{})
	works := func(when string) {
		t.Helper()
		for range 8 { // of either member's keys
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			rec, token := draft("", time.Now())
			if _, err := s.Save(ctx, rec); err != nil {
				// A creation is not sent twice: it may be on its way.
				ctx2, cancel2 := context.WithTimeout(t.Context(), 2*time.Second)
				rec, token = draft("", time.Now())
				if _, err := s.Save(ctx2, rec); err != nil {
					t.Errorf("%s: create: %v", when, err)
				}
				cancel2()
			}
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
			rec, err := s.Load(ctx, token)
			if err != nil {
				t.Fatalf("%s: load: %v", when, err)
			}
			if _, err := s.Save(ctx, rec); err != nil {
				t.Errorf("%s: save: %v", when, err)
			}
			cancel()
		}
	}
	works("all is well")
	for name, hurt := range map[string]func(*faults.Proxy){"down": (*faults.Proxy).Cut, "half open": (*faults.Proxy).Stall} {
		for i, p := range []*faults.Proxy{one, two} {
			hurt(p)
			works(name)
			other := []*faults.Proxy{two, one}[i]
			other.Cut()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err := s.Load(ctx, session.NewToken())
			cancel()
			failed(t, name+", and the other down", err)
			p.Heal()
			works("the first is back")
			other.Heal()
			works("both are back")
		}
	}
}

// The members have closed the idle connections; whoever comes next does not
// notice.
func TestIdleConnectionsClosed(t *testing.T) {
	f := newFake(t, sound)
	proxy := faults.NewProxy(t, f.member())
	s := newStore(t, []string{proxy.Addr}, hazelcaststore.Options{KeepAlive: 10 * time.Millisecond})
	_, token := create(t, s, "ann")
	for range 5 {
		proxy.Cut()
		proxy.Heal()
		rec := load(t, s, token)
		save(t, s, rec)
	}
}
