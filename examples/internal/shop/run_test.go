package shop_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/examples/internal/shop"
)

func TestParseConfig(t *testing.T) {
	for _, tt := range []struct {
		why, args, env string
		want           shop.Config
	}{
		{"nothing said", "", "", shop.Config{Addr: "localhost:8080", Store: "memory:"}},
		{"the environment", "", "redis://r", shop.Config{Addr: "localhost:8080", Store: "redis://r"}},
		{"a flag before the environment", "-store memory:?max=5", "redis://r", shop.Config{Addr: "localhost:8080", Store: "memory:?max=5"}},
		{"all flags", "-addr :9 -name n -secure -store redis://r", "", shop.Config{Addr: ":9", Store: "redis://r", Name: "n", Secure: true}},
	} {
		getenv := func(name string) string { return map[string]string{"SESSION_STORE": tt.env}[name] }
		got, err := shop.ParseConfig(strings.Fields(tt.args), getenv, io.Discard)
		if tt.want.Name == "" { // the default has the process ID in it
			if got.Name == "" {
				t.Errorf("%s: no name", tt.why)
			}
			got.Name = ""
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.why, got, err)
		}
	}
	for _, args := range []string{"-port 8080", "redis://r"} {
		if _, err := shop.ParseConfig(strings.Fields(args), os.Getenv, io.Discard); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	if _, err := shop.ParseConfig([]string{"-h"}, os.Getenv, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for _, tt := range []struct{ why, url, want string }{
		{"nothing to hide", "memory:", "memory:"},
		{"host and path", "redis://localhost:6379/0", "redis://localhost:6379/0"},
		{"no host", "file:///var/sessions", "file:///var/sessions"},
		{"a password", "redis://:hunter2@localhost", "redis://…@localhost"},
		{"a token as the user", "nats://hunter2@h:4222", "nats://…@h:4222"},
		{"several hosts", "redis+cluster://u:hunter2@h1:7001,h2:7002", "redis+cluster://…@h1:7001,h2:7002"},
		{"a password for each", "redis+cluster://u:hunter2@h1:7001,u:hunter2@h2:7002", "redis+cluster://…@h2:7002"},
		{"a secret parameter", "cookie:?keys=hunter2", "cookie:?keys=…"},
		{"a named secret", "cookie:?keys=env:KEYS&irrevocable=true", "cookie:?keys=env:KEYS&irrevocable=true"},
		{"what is public", "jwt:?alg=EdDSA&iss=shop&aud=shop&keys=hunter2", "jwt:?alg=EdDSA&iss=shop&aud=shop&keys=…"},
		{"a secret without a name", "redis://h?hunter2", "redis://h"},
		{"a duration", "redis://h?timeout=500ms&name=hunter2", "redis://h?timeout=500ms&name=…"},
		{"the store behind", "cookie:?revoked=" + url.QueryEscape("memory:?max=5&x=hunter2"), "cookie:?revoked=memory:?max=5&x=…"},
		{"a password behind", "memory:?revoked=" + url.QueryEscape("memory://u:hunter2@h"), "memory:?revoked=memory://…@h"},
		{"an @ in the wrong place", "memory://u/hunter2@h", "memory:…"},
		{"a # in the password", "memory://hunter#2@h", "memory:…"},
		{"a ? in the password", "memory://hunter?2@h", "memory:…"},
		{"not a URL", "memory://u:hunter2%zz@h", "memory:…"},
		{"nor a scheme", "hunter2", "…"},
		{"another way to write one", "mysql:root:hunter2@tcp(db)/x", "…"},
	} {
		got := shop.Redact(tt.url)
		if got != tt.want || strings.Contains(got, "hunter") {
			t.Errorf("%s: %s becomes %s, want %s", tt.why, tt.url, got, tt.want)
		}
	}
}

func TestDevice(t *testing.T) {
	const webkit = "AppleWebKit/537.36 (KHTML, like Gecko)"
	for _, tt := range []struct{ agent, want string }{
		{firefox, "Firefox on Linux"},
		{phone, "Safari on iPhone"},
		{"Mozilla/5.0 (Windows NT 10.0; Win64; x64) " + webkit + " Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0", "Edge on Windows"},
		{"Mozilla/5.0 (Linux; Android 15; Pixel 9) " + webkit + " Chrome/140.0.0.0 Mobile Safari/537.36", "Chrome on Android"},
		{"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) " + webkit + " Version/18.5 Safari/605.1.15", "Safari on Mac"},
		{"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) " + webkit + " Chrome/140.0.0.0 Safari/537.36", "Chrome on ChromeOS"},
		{"Mozilla/5.0 (X11; Linux x86_64) " + webkit + " HeadlessChrome/140.0.0.0 Safari/537.36", "Chrome (headless) on Linux"},
		{"curl/8.5.0", "curl"},
		{"<b>", "an unknown program"},
		{"", "an unknown program"},
	} {
		r := &http.Request{Header: http.Header{"User-Agent": {tt.agent}}}
		if got := shop.Device(r); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.agent, got, tt.want)
		}
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- shop.Run(ctx, shop.Config{Addr: "127.0.0.1:0", Store: "memory:?max=10", Name: "n"}, in)
		in.Close()
	}()
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "Swap the store with -store URL, or the environment variable SESSION_STORE:" {
		said.WriteString(lines.Text() + "\n")
	}
	rest := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(out)
		rest <- string(b)
	}()
	_, after, ok := strings.Cut(said.String(), "The shop is open at ")
	if !ok || !strings.Contains(after, "\nSessions are in memory:?max=10\n") || strings.Contains(after, "https") {
		t.Fatalf("it says:\n%s", said.String())
	}
	at, _, _ := strings.Cut(after, " ")
	has(t, newBrowser(t, firefox).get(at), "answered by n", "sessions in memory:")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("at the end: %v", err)
	}
	if s := <-rest; !strings.Contains(s, "-store 'memory:'") || !strings.Contains(s, "the shop is closed") {
		t.Errorf("it says:\n%s", s)
	}
}

// unreachable is a store whose server does not answer.
type unreachable struct{ session.Store }

func (unreachable) Load(context.Context, string) (*session.Record, error) {
	return nil, errors.New("connection refused")
}

func init() {
	session.Register("unreachable", func(context.Context, *url.URL) (session.Store, error) {
		return unreachable{}, nil
	})
}

func TestRunRefuses(t *testing.T) {
	for _, tt := range []struct {
		why  string
		c    shop.Config
		want string
	}{
		{"no such store", shop.Config{Store: "nosuch://u:hunter2@h"}, `"nosuch" is not known`},
		{"a parameter that is none", shop.Config{Store: "memory:?maximum=3"}, "known: max"},
		{"a server that does not answer", shop.Config{Store: "unreachable://u:hunter2@h"}, "unreachable://…@h does not answer; check that it is running"},
		{"an address that is none", shop.Config{Store: "memory:", Addr: "127.0.0.1:x"}, "-addr"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := shop.Run(ctx, tt.c, io.Discard)
		cancel()
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
}
