package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

const secret = "Zq7!s/e@c?r#t" // what a password may look like

func TestRedisURL(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", secret)
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type want struct {
		kind, addrs, user, password, master string
		db                                  int
		tls                                 bool
	}
	for _, tt := range []struct {
		url  string
		want want
	}{
		{"redis://localhost", want{addrs: "localhost:6379"}},
		{"redis://127.0.0.1:7000/3", want{addrs: "127.0.0.1:7000", db: 3}},
		{"redis://h?db=4", want{addrs: "h:6379", db: 4}},
		{"redis://[::1]", want{addrs: "[::1]:6379"}},
		{"redis://[::1]:7000/", want{addrs: "[::1]:7000"}},
		{"REDIS://H", want{addrs: "H:6379"}},
		{"rediss://h", want{addrs: "h:6379", tls: true}},
		{"redis://u:p@h", want{addrs: "h:6379", user: "u", password: "p"}},
		{"redis://:p@h", want{addrs: "h:6379", password: "p"}},
		{"redis://u:" + url.QueryEscape(secret) + "@h", want{addrs: "h:6379", user: "u", password: secret}},
		{"redis://h?password=env:REDIS_PASSWORD", want{addrs: "h:6379", password: secret}},
		{"redis://h?username=u&password=file:" + file, want{addrs: "h:6379", user: "u", password: secret}},
		{"redis+cluster://a:1,b:2", want{kind: "cluster", addrs: "a:1 b:2"}},
		{"redis+cluster://a,b,c:2", want{kind: "cluster", addrs: "a:6379 b:6379 c:2"}},
		{"redis+cluster://a/0", want{kind: "cluster", addrs: "a:6379"}},
		{"redis+cluster://?addr=[::1]:7001&addr=[::1]:7002&addr=[fe80::2]", want{kind: "cluster", addrs: "[::1]:7001 [::1]:7002 [fe80::2]:6379"}},
		{"redis+cluster://[::1]:7000?addr=h", want{kind: "cluster", addrs: "[::1]:7000 h:6379"}},
		{"rediss+cluster://u:p@a,b", want{kind: "cluster", addrs: "a:6379 b:6379", user: "u", password: "p", tls: true}},
		{"redis+sentinel://a,b:2/mymaster", want{kind: "sentinel", addrs: "a:26379 b:2", master: "mymaster"}},
		{"rediss+sentinel://a/m?db=1&sentinel_username=s&sentinel_password=env:REDIS_PASSWORD", want{kind: "sentinel", addrs: "a:26379", master: "m", db: 1, tls: true}},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		kind, o, store, err := session.ParseRedisURL(u)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		got := want{kind, strings.Join(o.Addrs, " "), o.Username, o.Password, o.MasterName, o.DB, o.TLSConfig != nil}
		if got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.url, got, tt.want)
		}
		if !o.ContextTimeoutEnabled || o.ReadTimeout != time.Second || o.DialerRetries != 1 || store.Prefix != "session:" {
			t.Errorf("%s: %+v", tt.url, o)
		}
		if strings.Contains(tt.url, "sentinel_password") && (o.SentinelUsername != "s" || o.SentinelPassword != secret) {
			t.Errorf("%s: the sentinels' credentials are not read", tt.url)
		}
	}
}

func TestRedisURLOptions(t *testing.T) {
	u, _ := url.Parse("redis://h?prefix=app:&replicas=2&replica_timeout=100ms&pool_size=7&dial_timeout=300ms&read_timeout=200ms")
	_, o, store, err := session.ParseRedisURL(u)
	if err != nil || o.PoolSize != 7 || o.DialTimeout != 300*time.Millisecond || o.ReadTimeout != 200*time.Millisecond {
		t.Errorf("%+v, %v", o, err)
	}
	if store.Prefix != "app:" || store.Replicas != 2 || store.ReplicaTimeout != 100*time.Millisecond {
		t.Errorf("%+v", store)
	}
}

func TestRedisURLErrors(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", secret)
	for _, tt := range []struct{ url, mend string }{
		{"redis://", "redis://localhost:6379"},
		{"redis:localhost", "redis://host:port"},
		{"redis:///0", "redis://localhost:6379"},
		{"redis://:7000", "host:port"},
		{"redis://h:0", "host:port"},
		{"redis://h:70000", "host:port"},
		{"redis://a,b", "redis+cluster://"},
		{"redis://h/x", "number of the database"},
		{"redis://h/-1", "number of the database"},
		{"redis://h/1?db=2", "number of the database"},
		{"redis://h?db=x", "whole number"},
		{"redis://h?prefx=a:", "known: db, dial_timeout"},
		{"redis://h?ca=x", "known:"},
		{"redis://h?sentinel_username=x", "known:"},
		{"redis://h?prefix=a&prefix=b", "keep one"},
		{"redis://h?replicas=1&replica_timeout=1s", "shorter than read_timeout"},
		{"redis://h?read_timeout=0s", "longer than 0"},
		{"redis://h?username=u", "password=env:NAME"},
		{"redis://u@h", "password=env:NAME"},
		{"redis://u:p@h?password=env:REDIS_PASSWORD", "keep the parameters"},
		{"redis://h?password=hunter2", "env:NAME or file:PATH"},
		{"redis://h?password=env:NOT_SET_AT_ALL", "not set"},
		{"redis+cluster://a/1", "no databases"},
		{"redis+cluster://a?db=1", "known:"},
		{"redis+cluster://a,", "commas"},
		{"redis+cluster://?addr=::1:7000", "[::1]:6379"},
		{"redis+cluster://", "redis+cluster://localhost"},
		{"redis+sentinel://a", "mymaster"},
		{"redis+sentinel://a/m?sentinel_username=u", "sentinel_password"},
		{"rediss://h?ca=/not/there", "ca: the file cannot be read"},
		{"rediss://h?cert=/not/there", "cert and key"},
		{"redis+other://h", "redis+cluster"},
		{"redis://h#x", "%23"},
		// A password whose special characters are not escaped.
		{"redis://u:" + secret + "@h", "special characters escaped"},
		{"redis://u:12#" + secret + "@h", "%23"},
		{"redis://u:12?" + secret + "@h", "%3F"},
		{"redis://u:12/" + secret + "@h", "%2F"},
		{"redis://u:12?x=" + secret + "@h", "%3F"},
	} {
		store, err := session.Open(t.Context(), tt.url)
		if !errors.Is(err, session.ErrConfig) || store != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if !strings.Contains(err.Error(), tt.mend) {
			t.Errorf("%s: %v; want %q", tt.url, err, tt.mend)
		}
		for _, s := range []string{secret, "Zq7", "c?r", "r#t", "hunter2"} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error shows the password: %v", tt.url, err)
			}
		}
	}
}

// logged collects what is logged while a test runs.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
	line chan string
}

func captureLog(t *testing.T) *logged {
	t.Helper()
	l := &logged{line: make(chan string, 100)}
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	redis.SetLogger(l)
	t.Cleanup(func() {
		slog.SetDefault(old)
		redis.SetLogger(discard{})
	})
	return l
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.line <- string(p):
	default:
	}
	return len(p), nil
}

func (l *logged) Printf(_ context.Context, format string, args ...any) {
	fmt.Fprintf(l, format+"\n", args...)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type discard struct{}

func (discard) Printf(context.Context, string, ...any) {}

// fakeServer answers every line with what reply makes of it.
func fakeServer(t *testing.T, reply func(line string) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					fmt.Fprint(c, reply(strings.TrimSpace(line)))
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestRedisOpen(t *testing.T) {
	mini := miniredis.RunT(t)
	store, err := session.Open(t.Context(), "redis://"+mini.Addr()+"?prefix=app:")
	if err != nil {
		t.Fatal(err)
	}
	token := session.NewToken()
	rec := &session.Record{ID: session.ID(token), Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	if _, err := store.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if keys := mini.Keys(); !slices.Equal(keys, []string{"app:" + rec.ID}) {
		t.Errorf("keys %q", keys)
	}
	for range 2 {
		if err := session.Close(store); err != nil {
			t.Error(err)
		}
	}
	if _, err := store.Load(t.Context(), token); !errors.Is(err, redis.ErrClosed) {
		t.Errorf("load after close: %v", err)
	}
	// A client that was passed in stays open.
	client := redis.NewClient(redisOptions(mini.Addr()))
	defer client.Close()
	if err := session.Close(session.NewRedisStore(client, nil)); err != nil {
		t.Error(err)
	}
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestRedisOpenRefuses(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	hello := func(server string) func(string) string {
		return func(line string) string {
			switch strings.ToLower(line) {
			case "hello":
				return fmt.Sprintf("%%1\r\n$6\r\nserver\r\n$%d\r\n%s\r\n", len(server), server)
			case "info":
				return "$0\r\n\r\n"
			}
			return ""
		}
	}
	server := servers.Redis(t, "--requirepass", secret)
	log := captureLog(t)
	for _, tt := range []struct{ name, url, mend string }{
		{"a web server", "redis://" + web.Listener.Addr().String(), "does not speak"},
		{"memcached", "redis://" + fakeServer(t, func(string) string { return "ERROR\r\n" }), "does not speak"},
		{"Infinispan", "redis://" + fakeServer(t, hello("infinispan")), "infinispan://"},
		{"no password", "redis://" + server.Addr, "password=env:NAME"},
		{"a wrong password", "redis://u:" + url.QueryEscape(secret+"x") + "@" + server.Addr, "password=env:NAME"},
	} {
		store, err := session.Open(t.Context(), tt.url)
		if !errors.Is(err, session.ErrConfig) || store != nil || !strings.Contains(err.Error(), tt.mend) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if strings.Contains(fmt.Sprint(err), secret) {
			t.Errorf("%s: the error shows the password: %v", tt.name, err)
		}
	}
	store, err := session.Open(t.Context(), "redis://:"+url.QueryEscape(secret)+"@"+server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	if _, err := store.Load(t.Context(), session.NewToken()); err != session.ErrNotFound {
		t.Error(err)
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log shows the password:\n%s", log)
	}
}

// A server that repeats what it was sent does not bring the password into an
// error: Redis 5 answers HELLO so.
func TestRedisPasswordIsHidden(t *testing.T) {
	log := captureLog(t)
	var said sync.Map
	addr := fakeServer(t, func(line string) string {
		said.Store(line, true)
		if strings.HasPrefix(line, "*") || strings.HasPrefix(line, "$") {
			return ""
		}
		return "-ERR wrong: `" + line + "`\r\n"
	})
	store, err := session.Open(t.Context(), "redis://u:"+url.QueryEscape(secret)+"@"+addr)
	if err == nil {
		defer session.Close(store)
		_, err = store.Load(t.Context(), session.NewToken())
	}
	if _, ok := said.Load(secret); !ok {
		t.Error("the password was not sent, so nothing is tested")
	}
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("load: %v", err)
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the log shows the password:\n%s", log)
	}
}

// Open does not need the server; it checks it when it comes.
func TestRedisOpenEarly(t *testing.T) {
	log := captureLog(t)
	server := servers.Redis(t)
	server.Kill()
	store, err := session.Open(t.Context(), "redis://"+server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(store)
	if _, err := store.Load(t.Context(), session.NewToken()); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("load: %v", err)
	}
	server.Restart(t)
	deadline := time.After(20 * time.Second)
	for {
		select {
		case line := <-log.line:
			if strings.Contains(line, "persistence is off") {
				return
			}
		case <-deadline:
			t.Fatalf("no finding was logged:\n%s", log)
		}
	}
}

// FuzzOpenURL: no URL makes Open panic, and no error shows a password.
func FuzzOpenURL(f *testing.F) {
	for _, s := range []string{
		"redis://u:|@h", "redis://u:|@h:1,h:2", "rediss+cluster://:|@h?addr=[::1]", "redis+sentinel://u:|@h", "redis://u:|@h?x=y",
		"redis://h?password=|", "redis://u:a|/b@h", "redis://u:|?b@h", "redis://u:1#|@h", "redis://|", "memory:|", "|", "redis+cluster://u:|@,",
	} {
		before, after, _ := strings.Cut(s, "|")
		f.Add(before, after)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		const password = "Zq7sekretZq7"
		raw := before + password + after
		u, err := url.Parse(raw)
		if err == nil && strings.HasPrefix(strings.ToLower(u.Scheme), "redis") {
			// Not Open, which would look for the host.
			_, _, _, err = session.ParseRedisURL(u)
		} else {
			var store session.Store
			if store, err = session.Open(t.Context(), raw); err == nil {
				session.Close(store)
			}
		}
		if err == nil || !strings.Contains(err.Error(), password) {
			return
		}
		// A parameter's name, and the value of one that is no secret, are shown.
		if u != nil && strings.Contains(u.RawQuery, password) && !strings.Contains(u.RawQuery, "password="+password) {
			return
		}
		if u != nil && strings.Contains(u.Scheme, strings.ToLower(password)) {
			return
		}
		t.Errorf("%q: %v", raw, err)
	})
}
