package memcachedstore_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/memcachedstore"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf fakeConf
		opts memcachedstore.Options
		want string // in the finding; "": none
	}{
		{"all is well", fakeConf{}, memcachedstore.Options{}, ""},
		{"small items", fakeConf{maxItem: 100_000}, memcachedstore.Options{}, "a larger -I"},
		{"small items, and a limit that fits", fakeConf{maxItem: 100_000}, memcachedstore.Options{MaxItem: 90_000}, ""},
		{"no evictions", fakeConf{noEvict: true}, memcachedstore.Options{}, "without -M"},
		{"its clock is behind", fakeConf{now: func() time.Time { return time.Now().Add(-time.Minute) }}, memcachedstore.Options{}, "differs from this one by -1m"},
		{"its clock is ahead", fakeConf{now: func() time.Time { return time.Now().Add(time.Minute) }}, memcachedstore.Options{}, "differs from this one by 1m"},
	} {
		s := newStore(t, []string{newFake(t, tt.conf).Addr}, tt.opts)
		switch err := s.Check(t.Context()); {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !contains(err, tt.want)):
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestCheckSeesEvictions(t *testing.T) {
	f := newFake(t, fakeConf{memory: 10_000})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	for range 50 {
		create(t, s, "")
	}
	if err := s.Check(t.Context()); err == nil || !contains(err, "a larger -m") {
		t.Errorf("Check: %v", err)
	}
}

// A server that takes small items only lowers the limit: nothing is sent that
// it would refuse.
func TestCheckLowersTheLimit(t *testing.T) {
	f := newFake(t, fakeConf{maxItem: 20_000})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	rec, token := create(t, s, "")
	large := load(t, s, token)
	large.Data = make([]byte, 30_000)
	f.commands()
	_, err := s.Save(t.Context(), large)
	wantErr(t, "a save that the server refuses", err, session.ErrTooLarge)
	if n := len(f.commands()); n == 0 {
		t.Error("nothing was sent; the limit was known already")
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("no finding")
	}
	f.commands()
	_, err = s.Save(t.Context(), large)
	wantErr(t, "a save after Check", err, session.ErrTooLarge)
	if got := f.commands(); len(got) != 0 {
		t.Errorf("%q was sent", got)
	}
	if got := load(t, s, token); got.Version != 1 || string(got.Data) != string(rec.Data) {
		t.Errorf("the session is at version %d with %d bytes", got.Version, len(got.Data))
	}
}

// Without CAS updates would be lost: Open refuses, and a store that did not
// look fails.
func TestWithoutCAS(t *testing.T) {
	fakes := newFake(t, fakeConf{noCAS: true}).Addr
	addrs := map[string]string{"a fake": fakes}
	t.Run("memcached", func(t *testing.T) { testWithoutCAS(t, servers.Memcached(t, "-C").Addr) })
	for name, addr := range addrs {
		t.Run(name, func(t *testing.T) { testWithoutCAS(t, addr) })
	}
}

func testWithoutCAS(t *testing.T, addr string) {
	_, err := session.Open(t.Context(), "memcached://"+addr)
	wantErr(t, "Open", err, session.ErrConfig)
	if err != nil && !contains(err, "--disable-cas") {
		t.Errorf("Open: %v", err)
	}
	s := newStore(t, []string{addr}, memcachedstore.Options{})
	failed(t, "Check", s.Check(t.Context()))
	rec, token := draft("", time.Now())
	save(t, s, rec)
	_, err = s.Load(t.Context(), token)
	failed(t, "Load", err)
	rec.Version = 1
	_, err = s.Save(t.Context(), rec)
	failed(t, "Save", err)
}

// Open refuses what is no memcached, and members that do not replicate.
func TestOpenRefuses(t *testing.T) {
	for name, greeting := range map[string]string{"HTTP": "HTTP/1.1 400 Bad Request\r\n\r\n", "Redis": "-ERR unknown command 'version'\r\n", "noise": strings.Repeat("x", 10_000)} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 100))
				c.Write([]byte(greeting))
				c.Close()
			}
		}()
		_, err = session.Open(t.Context(), "memcached://"+l.Addr().String())
		wantErr(t, name, err, session.ErrConfig)
		if err != nil && !contains(err, "check host and port") {
			t.Errorf("%s: %v", name, err)
		}
	}
	one, two := newFake(t, fakeConf{}), newFake(t, fakeConf{})
	_, err := session.Open(t.Context(), "infinispan://"+one.Addr+","+two.Addr)
	wantErr(t, "two that do not replicate", err, session.ErrConfig)
	if err != nil && !contains(err, "use memcached://") {
		t.Errorf("two that do not replicate: %v", err)
	}
	open(t, "infinispan://"+one.Addr+","+faults.NewProxy(t, one.Addr).Addr) // the same items through both
	if got := one.keys("session:"); len(got) != 0 {
		t.Errorf("Open leaves %q", got)
	}
}

// A server that does not answer yet is checked when it does.
func TestOpenEarly(t *testing.T) {
	log := logs(t)
	proxy := faults.NewProxy(t, newFake(t, fakeConf{noEvict: true}).Addr)
	proxy.Cut()
	s := open(t, "memcached://"+proxy.Addr)
	_, err := s.Load(t.Context(), session.NewToken())
	failed(t, "load", err)
	proxy.Heal()
	servers.Wait(t, "the finding in the log", 10*time.Second, func(context.Context) error {
		if text := log.String(); !strings.Contains(text, "does not answer yet") || !strings.Contains(text, "without -M") {
			return errors.New(text)
		}
		return nil
	})
	if _, err := s.Load(t.Context(), session.NewToken()); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("load: %v", err)
	}
}
