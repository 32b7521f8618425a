package hazelcaststore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
)

func TestCheck(t *testing.T) {
	with := func(change func(*fakeConf)) fakeConf {
		conf := sound
		change(&conf)
		return conf
	}
	for _, tt := range []struct {
		name string
		conf fakeConf
		opts hazelcaststore.Options
		mend string // "": all is well
	}{
		{"sound", sound, hazelcaststore.Options{}, ""},
		{"two backups", with(func(c *fakeConf) { c.backups = 2 }), hazelcaststore.Options{}, ""},
		{"no backup", with(func(c *fakeConf) { c.backups = 0 }), hazelcaststore.Options{}, "give it backup-count: 1"},
		{"asynchronous backups", with(func(c *fakeConf) { c.backups, c.async = 0, 2 }), hazelcaststore.Options{}, "only asynchronous backups"},
		{"objects", with(func(c *fakeConf) { c.format = "OBJECT" }), hazelcaststore.Options{}, "in-memory-format: BINARY"},
		{"eviction", with(func(c *fakeConf) { c.size = 10_000 }), hazelcaststore.Options{}, "insecure_eviction=true"},
		{"eviction by memory", with(func(c *fakeConf) { c.unit = "USED_NATIVE_MEMORY_SIZE" }), hazelcaststore.Options{}, "evicts entries at 2147483647 (USED_NATIVE_MEMORY_SIZE)"},
		{"eviction that is accepted", with(func(c *fakeConf) { c.size = 10_000 }), hazelcaststore.Options{InsecureEviction: true}, ""},
		{"another cache", sound, hazelcaststore.Options{Cache: "carts"}, `no cache "carts" is declared there`},
		{"its own end at writes", with(func(c *fakeConf) { c.expiry = "javax.cache.expiry.ModifiedExpiryPolicy" }), hazelcaststore.Options{}, ""},
		{"its own end at reads", with(func(c *fakeConf) { c.expiry = "javax.cache.expiry.TouchedExpiryPolicy" }), hazelcaststore.Options{}, "lives (Touched); take the expiry-policy-factory out"},
		{"a policy of somebody's", with(func(c *fakeConf) { c.expiry = "com.example.Policy" }), hazelcaststore.Options{}, "lives (unknown)"},
		{"another cluster", sound, hazelcaststore.Options{Cluster: "prod"}, "check cluster=NAME"},
		{"a password that is not given", with(func(c *fakeConf) { c.user, c.password = "app", "secret" }), hazelcaststore.Options{}, "the user or the password; check cluster=NAME, and username and password=env:NAME"},
		{"a wrong password", with(func(c *fakeConf) { c.user, c.password = "app", "secret" }), hazelcaststore.Options{Username: "app", Password: "wrong"}, "the user or the password; check cluster=NAME, and username and password=env:NAME"},
		{"the right password", with(func(c *fakeConf) { c.user, c.password = "app", "secret" }), hazelcaststore.Options{Username: "app", Password: "secret"}, ""},
		{"a serialization filter", with(func(c *fakeConf) { c.class = "com.hazelcast.nio.serialization.HazelcastSerializationException" }), hazelcaststore.Options{}, "java-serialization-filter"},
	} {
		f := newFake(t, tt.conf)
		err := newStore(t, []string{f.member(), f.member()}, tt.opts).Check(t.Context())
		switch {
		case tt.mend == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.mend != "" && (err == nil || !strings.Contains(err.Error(), tt.mend)):
			t.Errorf("%s: %v; want %q", tt.name, err, tt.mend)
		case err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong")):
			t.Errorf("%s: the error shows a password: %v", tt.name, err)
		}
		if n := f.len(); n != 0 {
			t.Errorf("%s: the check leaves %d entries", tt.name, n)
		}
	}
}

// Members that would never meet are no cluster.
func TestCheckTwoClusters(t *testing.T) {
	one, two := newFake(t, sound), newFake(t, sound)
	two.id = 2
	err := newStore(t, []string{one.member(), two.member()}, hazelcaststore.Options{}).Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), "different clusters") {
		t.Errorf("%v", err)
	}
}

// What is found at once is ErrConfig, and says so before a member that does not
// answer; a cluster that is not there yet is checked when it comes.
func TestOpen(t *testing.T) {
	conf := sound
	conf.backups = 0
	f := newFake(t, conf)
	down := faults.NewProxy(t, f.member())
	down.Cut()
	web := webServer(t)
	for name, tt := range map[string]struct{ members, mend string }{
		"a cache without a backup": {down.Addr + "," + f.member(), "backup-count: 1"},
		"a web server":             {down.Addr + "," + web, "check host and port"},
	} {
		_, err := session.Open(t.Context(), "hazelcast://"+tt.members)
		if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) {
			t.Errorf("%s: %v; want ErrConfig with %q", name, err, tt.mend)
		}
	}

	var log syncBuffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	s, err := session.Open(t.Context(), "hazelcast://"+down.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(s)
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "Load while no member is there", err)
	down.Heal()
	servers.Wait(t, "the check", 20*time.Second, func(context.Context) error {
		if text := log.String(); !strings.Contains(text, "does not answer yet") || !strings.Contains(text, "backup-count: 1") {
			return fmt.Errorf("logged: %s", text)
		}
		return nil
	})
	if err := session.Close(s); err != nil {
		t.Error(err)
	}
	_, err = s.Load(t.Context(), session.NewToken())
	failed(t, "Load after Close", err)
}

// webServer answers as one that hears what it does not understand.
func webServer(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000)) // or its end would overtake the answer
			fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	})
	return l.Addr().String()
}

// syncBuffer keeps a log that others write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestURL(t *testing.T) {
	t.Setenv("HZ_PASSWORD", "hunter2")
	for _, tt := range []struct {
		url     string
		members string
		want    hazelcaststore.Options
	}{
		{"hazelcast://h1", "h1:5701", hazelcaststore.Options{}},
		{"hazelcast://h1,h2", "h1:5701 h2:5701", hazelcaststore.Options{}},
		{"hazelcast://h1:5702,h2:5701/carts?cluster=prod", "h1:5702 h2:5701", hazelcaststore.Options{Cache: "carts", Cluster: "prod"}},
		{"hazelcast:///carts?addr=[::1]:5703&addr=h2", "[::1]:5703 h2:5701", hazelcaststore.Options{Cache: "carts"}},
		{"hazelcast://h1/?prefix=a:&timeout=2s&keep_alive=5s&max_item=4096&insecure_eviction=true", "h1:5701",
			hazelcaststore.Options{Prefix: "a:", Timeout: 2 * time.Second, KeepAlive: 5 * time.Second, MaxItem: 4096, InsecureEviction: true}},
		{"hazelcast://h1?username=app&password=env:HZ_PASSWORD", "h1:5701", hazelcaststore.Options{Username: "app", Password: "hunter2"}},
		{"hazelcast://app:hunter2@h1", "h1:5701", hazelcaststore.Options{Username: "app", Password: "hunter2"}},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		members, opts, err := hazelcaststore.ParseURL(u)
		if err != nil || strings.Join(members, " ") != tt.members || !reflect.DeepEqual(*opts, tt.want) {
			t.Errorf("%s: %v, %+v, %v", tt.url, members, opts, err)
		}
	}
	u, _ := url.Parse("HAZELCASTS://h1?server_name=cluster")
	if _, opts, err := hazelcaststore.ParseURL(u); err != nil || opts.TLS == nil || opts.TLS.ServerName != "cluster" {
		t.Errorf("with TLS: %+v, %v", opts, err)
	}
}

func TestWrongURL(t *testing.T) {
	for _, tt := range []struct{ url, mend string }{
		{"hazelcast:", "names no host"},
		{"hazelcast:h1", "cannot be read"},
		{"hazelcast://h1:0", "a host cannot be read"},
		{"hazelcast://h1,h1", "named twice"},
		{"hazelcast://h1/a/b", "without a /"},
		{"hazelcast://h1?shards=3", `"shards" is not known`},
		{"hazelcast://h1?ca=x", `"ca" is not known`},
		{"hazelcast://h1?timeout=soon", "takes a duration"},
		{"hazelcast://h1?max_item=7", "it takes 2048 to"},
		{"hazelcast://h1?password=hunter2", "env:"},
		{"hazelcast://h1?username=app", "belong together"},
		{"hazelcast://app:hunter2@h1?username=app&password=env:HOME", "keep the parameters"},
		{"hazelcast://app:hunter2/x@h1", ""},
		{"hazelcasts://h1?ca=/nowhere", "ca"},
	} {
		_, err := session.Open(t.Context(), tt.url)
		if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v; want ErrConfig with %q", tt.url, err, tt.mend)
		}
	}
	for name, opts := range map[string]hazelcaststore.Options{
		"Timeout": {Timeout: -1}, "KeepAlive": {KeepAlive: -1}, "MaxItem": {MaxItem: 1 << 30}, "Password": {Password: "hunter2"},
	} {
		if _, err := hazelcaststore.New([]string{"h1:5701"}, &opts); !errors.Is(err, session.ErrConfig) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, members := range [][]string{nil, {"h1"}, {":5701"}} {
		if _, err := hazelcaststore.New(members, nil); !errors.Is(err, session.ErrConfig) {
			t.Errorf("%q: %v", members, err)
		}
	}
}

// A record that is too large is refused before anything is sent.
func TestTooLarge(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{MaxItem: 10_000})
	_, token := create(t, s, "ann")
	rec := load(t, s, token)
	f.requests()
	rec.Data = bytes.Repeat([]byte("x"), 10_000)
	_, err := s.Save(t.Context(), rec)
	wantErr(t, "Save", err, session.ErrTooLarge)
	if sent := f.requests(); len(sent) > 0 {
		t.Errorf("it sends %v", sent)
	}
}
