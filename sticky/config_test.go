package sticky_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

func TestBadConfig(t *testing.T) {
	good := func() *url.URL { return &url.URL{Scheme: "http", Host: "h"} }
	for _, tt := range []struct {
		why   string
		nodes []sticky.Node
		o     sticky.Options
		says  string
	}{
		{"no ID", []sticky.Node{{URL: good()}}, sticky.Options{}, "the ID"},
		{"two of one ID", []sticky.Node{{ID: "a", URL: good()}, {ID: "a", URL: good()}}, sticky.Options{}, `"a"`},
		{"no URL", []sticky.Node{{ID: "a"}}, sticky.Options{}, "missing"},
		{"another scheme", []sticky.Node{{ID: "a", URL: &url.URL{Scheme: "ftp", Host: "h"}}}, sticky.Options{}, "http or https"},
		{"no host", []sticky.Node{{ID: "a", URL: &url.URL{Scheme: "http", Host: ":80"}}}, sticky.Options{}, "no host"},
		{"a path", []sticky.Node{{ID: "a", URL: &url.URL{Scheme: "http", Host: "h", Path: "/x"}}}, sticky.Options{}, "own path"},
		{"a password", []sticky.Node{{ID: "a", URL: &url.URL{Scheme: "http", Host: "h", User: url.UserPassword("u", "hunter2")}}}, sticky.Options{}, "password"},
		{"negative weight", []sticky.Node{{ID: "a", URL: good(), Weight: -1}}, sticky.Options{}, "weight"},
		{"a short key", nil, sticky.Options{Keys: [][]byte{[]byte("hunter2")}}, "32"},
		{"one key twice", nil, sticky.Options{Keys: [][]byte{key(1), key(1)}}, "twice"},
		{"nine keys", nil, sticky.Options{Keys: [][]byte{key(1), key(2), key(3), key(4), key(5), key(6), key(7), key(8), key(9)}}, "oldest"},
		{"a bad cookie name", nil, sticky.Options{Cookie: sticky.Cookie{Name: "a b"}}, "letters, digits"},
		{"a prefix", nil, sticky.Options{Cookie: sticky.Cookie{Name: "__Host-x"}}, "prefix"},
		{"no function", nil, sticky.Options{By: sticky.ByKey(nil)}, "ByKey"},
		{"negative hops", nil, sticky.Options{TrustedHops: -1}, "TrustedHops"},
		{"a path without /", nil, sticky.Options{Health: sticky.Health{Path: "health"}}, "write /healthz"},
		{"a path with a fragment", nil, sticky.Options{Health: sticky.Health{Path: "/health#x"}}, "without a fragment"},
		{"negative rate", nil, sticky.Options{Rebalance: -1}, "Rebalance"},
		{"negative attempts", nil, sticky.Options{Retry: sticky.Retry{Attempts: -1}}, "Attempts"},
	} {
		p, err := sticky.New(tt.nodes, &tt.o)
		if !errors.Is(err, sticky.ErrConfig) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v; want ErrConfig that says %q", tt.why, err, tt.says)
		}
		if err == nil {
			p.Shutdown(t.Context())
		}
	}
}

func TestParseConfig(t *testing.T) {
	for _, tt := range []struct{ why, text, says string }{
		{"no JSON", `nodes: []`, "one object in JSON"},
		{"empty", ``, "one object in JSON"},
		{"cut off", `{"nodes":[{"id":"a"`, "EOF"},
		{"an unknown field", `{"nodes":[{"id":"a","url":"http://h","wieght":2}]}`, "wieght"},
		{"two objects", `{"nodes":[]} {}`, "delete it"},
		{"a bad URL", `{"nodes":[{"id":"a","url":"http://u:hunter2@h:x"}]}`, `"a"`},
		{"a bad drain", `{"nodes":[{"id":"a","url":"http://h","drain":"slowly"}]}`, "keep 10m"},
		{"keep without a time", `{"nodes":[{"id":"a","url":"http://h","drain":"keep"}]}`, "keep 10m"},
		{"keep for no time", `{"nodes":[{"id":"a","url":"http://h","drain":"keep 0s"}]}`, "keep 10m"},
		{"a bad rate", `{"nodes":[],"rebalance":-1}`, "rebalance"},
		{"two nodes of one ID", `{"nodes":[{"id":"a","url":"http://h"},{"id":"a","url":"http://i"}]}`, "each its own"},
	} {
		_, err := sticky.ParseConfig([]byte(tt.text))
		if !errors.Is(err, sticky.ErrConfig) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v; want ErrConfig that says %q", tt.why, err, tt.says)
		}
	}
	c, err := sticky.ParseConfig([]byte(`{"nodes":[{"id":"a","url":"https://h:1/","weight":2,"max_in_flight":3,"drain":"keep 1h30m"}],"rebalance":0,"settings":{"x":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := c.NodeList()
	if err != nil || len(nodes) != 1 || nodes[0].ID != "a" || nodes[0].URL.Host != "h:1" || nodes[0].Weight != 2 || nodes[0].MaxInFlight != 3 || string(c.Settings) != `{"x":1}` {
		t.Errorf("%+v, %v", nodes, err)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"nodes":[{"id":"a","url":"http://h:1","drain":"keep 1m","weight":2}],"rebalance":1}`))
	f.Add([]byte(`{"nodes":[{"id":"a","url":"http://[::1%25a]:1"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := sticky.ParseConfig(text)
		if err != nil {
			if !errors.Is(err, sticky.ErrConfig) {
				t.Errorf("%v is not ErrConfig", err)
			}
			return
		}
		nodes, err := c.NodeList()
		if err != nil {
			t.Fatalf("parsed, and then %v", err)
		}
		// What can be parsed can be started and applied.
		p, err := sticky.New(nodes, &sticky.Options{Health: unchecked, Logger: slog.New(slog.DiscardHandler), Transport: sayNode})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(c); err != nil {
			t.Error(err)
		}
		serve(p, request("GET", "192.0.2.1:1"))
		p.Shutdown(t.Context())
	})
}

func apply(t *testing.T, p *sticky.Proxy, text string) {
	t.Helper()
	c, err := sticky.ParseConfig([]byte(text))
	if err == nil {
		err = p.Apply(c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, nil, sticky.Options{Health: sticky.Health{Interval: -1, SlowStart: -1}, Transport: sayNode, Keys: [][]byte{key(1)}})
		const a, b = `{"id":"a","url":"http://a"}`, `{"id":"b","url":"http://b"}`
		apply(t, p, `{"nodes":[`+a+`,`+b+`]}`)
		for range 5 {
			serve(p, request("GET", v4(1)))
		}
		requests := stateOf(t, p, "a").Requests + stateOf(t, p, "b").Requests

		apply(t, p, `{"nodes":[`+b+`,`+a+`,{"id":"c","url":"http://c"}]}`)
		if s := p.Status(); len(s.Nodes) != 3 || s.Nodes[0].ID != "b" || s.Nodes[0].Requests+s.Nodes[1].Requests != requests {
			t.Errorf("%+v; want three nodes in the file's order, that go on counting", s.Nodes)
		}

		const keep = `{"id":"a","url":"http://a","drain":"keep 10m"}`
		apply(t, p, `{"nodes":[`+keep+`,`+b+`]}`)
		until := stateOf(t, p, "a").Until
		expectState(t, p, "a", "keeping", "drained by the file")
		wait(time.Minute)
		if err := p.Remove("c"); !errors.Is(err, sticky.ErrUnknownNode) {
			t.Errorf("a node that the file has dropped is there: %v", err)
		}

		// A change to something else starts no time anew and resumes nobody.
		if err := p.Drain(t.Context(), "b", sticky.Move); err != nil {
			t.Fatal(err)
		}
		apply(t, p, `{"nodes":[`+keep+`,{"id":"b","url":"http://b","weight":2}]}`)
		expectState(t, p, "b", "draining", "drained by hand, another weight in the file")
		if s := stateOf(t, p, "a"); s.State != "keeping" || !s.Until.Equal(until) {
			t.Errorf("%+v; want until %v still", s, until)
		}
		apply(t, p, `{"nodes":[`+a+`,`+b+`]}`)
		expectState(t, p, "a", "up", "resumed by the file")
		expectState(t, p, "b", "draining", "drained by hand")
		apply(t, p, `{"nodes":[`+a+`,{"id":"b","url":"http://b","drain":"move"}]}`)
		apply(t, p, `{"nodes":[`+a+`,`+b+`]}`)
		expectState(t, p, "b", "up", "drained and resumed by the file")
	})
}

// lines is a log that several goroutines write to.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func TestWatchConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "nodes.json")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			wait(1100 * time.Millisecond)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		log := &lines{}
		logger := slog.New(slog.NewTextHandler(log, nil))
		var got []string
		take := func(c *sticky.Config) error {
			if len(c.Nodes) > 2 {
				return errors.New("too many for this test")
			}
			text := ""
			for _, n := range c.Nodes {
				text += n.ID
			}
			got = append(got, text)
			return nil
		}
		if err := sticky.WatchConfig(ctx, path, time.Second, logger, take); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		write(`{"nodes":[`)
		if err := sticky.WatchConfig(ctx, path, time.Second, logger, take); !errors.Is(err, sticky.ErrConfig) {
			t.Errorf("half a file: %v", err)
		}
		write(`{"nodes":[{"id":"a","url":"http://h"}]}`)
		if err := sticky.WatchConfig(ctx, path, time.Second, logger, take); err != nil {
			t.Fatal(err)
		}
		expect := func(want ...string) {
			t.Helper()
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("applied %q; want %q", got, want)
			}
		}
		expect("a")
		wait(10 * time.Second)
		expect("a")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(`{"nodes":[{"id":"b","url":"http://h"}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
		wait(1100 * time.Millisecond)
		expect("a", "b") // of the same length, at the same time
		write(`{"nodes":[{"id":"c"`)
		wait(5 * time.Second)
		expect("a", "b")
		if n := log.count("the old one stays"); n != 1 {
			t.Errorf("a bad file is reported %d times; want once", n)
		}
		write(`{"nodes":[{"id":"x","url":"http://h"},{"id":"y","url":"http://h"},{"id":"z","url":"http://h"}]}`)
		expect("a", "b")
		if n := log.count("too many for this test"); n != 1 {
			t.Errorf("a refused one is reported %d times; want once", n)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		wait(5 * time.Second)
		if n := log.count("cannot be read"); n != 1 {
			t.Errorf("a missing file is reported %d times; want once", n)
		}
		write(`{"nodes":[{"id":"c","url":"http://h"}]}`)
		expect("a", "b", "c")
		cancel()
		write(`{"nodes":[]}`)
		expect("a", "b", "c")
	})
}

func TestRebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := cookieProxy(t, sticky.Options{}, "a", "b", "c")
		// 300 users, all of them on a: so it is after a rolling restart.
		cookies := make([]string, 300)
		for i := range cookies {
			cookies[i] = "affinity=" + sticky.CookieValue(key(1), "a")
		}
		second := func() (moved int, at map[string]int) {
			at = map[string]int{}
			for i := range cookies {
				w := serve(p, request("GET", v4(i), withCookie(cookies[i])))
				if set := w.Header().Get("Set-Cookie"); set != "" {
					cookies[i], _, _ = strings.Cut(set, ";")
					moved++
				}
				at[w.Body.String()]++
			}
			wait(time.Second)
			return moved, at
		}
		for range 5 {
			if moved, at := second(); moved != 0 || at["a"] != 300 {
				t.Fatalf("%d moved by themselves", moved)
			}
		}
		p.Rebalance(10)
		total := 0
		for i := range 60 {
			moved, _ := second()
			if total += moved; moved > 20 || total > 10*(i+2) {
				t.Fatalf("%d moved in a second, %d in %d; want 10 a second at most", moved, total, i+1)
			}
		}
		_, at := second()
		for _, id := range []string{"a", "b", "c"} {
			if at[id] < 80 || at[id] > 120 {
				t.Errorf("after a minute %v; want 100 each, to a tenth or two", at)
			}
		}
		if s := stateOf(t, p, "a"); s.MovedAway < 180 || s.MovedAway != int64(total)-stateOf(t, p, "b").MovedAway-stateOf(t, p, "c").MovedAway {
			t.Errorf("%d moved away; want what was seen, %d", s.MovedAway, total)
		}
		p.Rebalance(0)
		before := total
		for range 3 {
			moved, _ := second()
			total += moved
		}
		if total != before {
			t.Errorf("%d moved after it was stopped", total-before)
		}
	})
}

// A rate that is taken out of the file ends; the options' holds again, and one
// that was set by hand stays.
func TestApplyRebalance(t *testing.T) {
	const nodes = `"nodes":[{"id":"a","url":"http://a"},{"id":"b","url":"http://b"}]`
	for _, tt := range []struct {
		why    string
		option float64
		do     func(t *testing.T, p *sticky.Proxy)
		moves  bool
	}{
		{"never", 0, func(t *testing.T, p *sticky.Proxy) {}, false},
		{"in the file", 0, func(t *testing.T, p *sticky.Proxy) { apply(t, p, `{`+nodes+`,"rebalance":5}`) }, true},
		{"taken out", 0, func(t *testing.T, p *sticky.Proxy) {
			apply(t, p, `{`+nodes+`,"rebalance":5}`)
			apply(t, p, `{`+nodes+`}`)
		}, false},
		{"taken out, and the options have one", 5, func(t *testing.T, p *sticky.Proxy) {
			apply(t, p, `{`+nodes+`,"rebalance":0}`)
			apply(t, p, `{`+nodes+`}`)
		}, true},
		{"by hand, and not in the file", 0, func(t *testing.T, p *sticky.Proxy) {
			p.Rebalance(5)
			apply(t, p, `{`+nodes+`}`)
		}, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := cookieProxy(t, sticky.Options{Rebalance: tt.option}, "a", "b")
			tt.do(t, p)
			for range 10 {
				for i := range 100 {
					serve(p, request("GET", v4(i), withCookie("affinity="+sticky.CookieValue(key(1), "a"))))
				}
				wait(time.Second)
			}
			if n := stateOf(t, p, "a").MovedAway; (n > 0) != tt.moves {
				t.Errorf("%s: %d moved; want some: %v", tt.why, n, tt.moves)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	p := newProxy(t, append(named("a"), sticky.Node{ID: "quo\"te\\new\nline", URL: &url.URL{Scheme: "http", Host: "b"}}), sticky.Options{Health: unchecked, Transport: sayNode})
	for range 10 {
		serve(p, request("GET", v4(1)))
	}
	w := serve(p.Metrics(), request("GET", v4(1)))
	if ct := w.Header().Get("Content-Type"); ct != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type %q", ct)
	}
	text := w.Body.String()
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line does not end")
	}
	// Every sample belongs to the family that was announced before it, once.
	family, seen, samples := "", map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP "):
			if family = f[2]; seen[family] {
				t.Errorf("%s twice", family)
			}
			seen[family] = true
		case strings.HasPrefix(line, "# TYPE "):
			if f[2] != family || f[3] != "counter" && f[3] != "gauge" || strings.HasSuffix(family, "_total") != (f[3] == "counter") {
				t.Errorf("%q in the family %s", line, family)
			}
		default:
			name := line[:strings.IndexAny(line, "{ ")]
			sample := line[:strings.LastIndexByte(line, ' ')]
			if name != family || samples[sample] {
				t.Errorf("%q in the family %s, or twice", line, family)
			}
			samples[sample] = true
		}
	}
	for _, want := range []string{
		"sticky_requests_total 10\n",
		`sticky_node_requests_total{node="quo\"te\\new\nline"} `,
		`sticky_node_state{node="a",state="up"} 1` + "\n",
		`sticky_node_state{node="a",state="down"} 0` + "\n",
		`sticky_node_weight{node="a"} 1` + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	var expvar interface{ String() string } = p
	if s := expvar.String(); !strings.HasPrefix(s, `{"requests":10,`) {
		t.Errorf("as an expvar: %s", s)
	}
}
