package sticky_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

// cut closes the connection without an answer.
func cut(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	panic(http.ErrAbortHandler)
}

// half closes it after the beginning of one.
func half(w http.ResponseWriter, r *http.Request) {
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	buf.WriteString("HTTP/1.1 200 O")
	buf.Flush()
	c.Close()
}

func hint(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusEarlyHints)
	panic(http.ErrAbortHandler)
}

func TestRetries(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		keyed := func(r *http.Request) { r.Header.Set("Idempotency-Key", "k1") }
		other := func(r *http.Request) { r.Header.Set("X-Idempotency-Key", "k1") }
		for _, tt := range []struct {
			why    string
			method string
			body   string
			edit   func(*http.Request)
			dead   bool // the node refuses; otherwise it does this:
			node   http.HandlerFunc
			retry  sticky.Retry
			again  bool // another node answers
			code   int  // if not
		}{
			{"GET", "GET", "", nil, false, cut, sticky.Retry{}, true, 0},
			{"HEAD", "HEAD", "", nil, false, cut, sticky.Retry{}, true, 0},
			{"OPTIONS", "OPTIONS", "", nil, false, cut, sticky.Retry{}, true, 0},
			{"GET that hangs", "GET", "", nil, false, hang, sticky.Retry{}, true, 0},
			{"GET with a body", "GET", "x", nil, false, cut, sticky.Retry{}, false, 502},
			{"GET with half a status line", "GET", "", nil, false, half, sticky.Retry{}, false, 502},
			{"GET after early hints", "GET", "", nil, false, hint, sticky.Retry{}, false, 502},
			{"TRACE", "TRACE", "", nil, false, cut, sticky.Retry{}, false, 502},
			{"DELETE", "DELETE", "", nil, false, cut, sticky.Retry{}, false, 502},
			{"PUT", "PUT", "x", nil, false, cut, sticky.Retry{}, false, 502},
			{"POST", "POST", "x", nil, false, cut, sticky.Retry{}, false, 502},
			{"POST without a body", "POST", "", nil, false, cut, sticky.Retry{}, false, 502},
			{"POST that hangs", "POST", "x", nil, false, hang, sticky.Retry{}, false, 504},
			{"POST with a key", "POST", "body", keyed, false, cut, sticky.Retry{}, true, 0},
			{"POST with a key, without a body", "POST", "", keyed, false, cut, sticky.Retry{}, true, 0},
			{"POST with a key that hangs", "POST", "body", keyed, false, hang, sticky.Retry{}, true, 0},
			{"POST with a key, keys do not count", "POST", "body", keyed, false, cut, sticky.Retry{NoIdempotencyKey: true}, false, 502},
			{"POST with a key, without a body, keys do not count", "POST", "", keyed, false, cut, sticky.Retry{NoIdempotencyKey: true}, false, 502},
			{"POST with a key, a long body", "POST", strings.Repeat("x", 100), keyed, false, cut, sticky.Retry{MaxBody: 99}, false, 502},
			{"POST with a key, a body just short enough", "POST", strings.Repeat("x", 99), keyed, false, cut, sticky.Retry{MaxBody: 99}, true, 0},
			{"POST with a key, no body is kept", "POST", "x", keyed, false, cut, sticky.Retry{MaxBody: -1}, false, 502},
			{"POST with the key of another name", "POST", "x", other, false, cut, sticky.Retry{}, false, 502},
			{"POST with the key of another name, without a body", "POST", "", other, false, cut, sticky.Retry{}, false, 502},
			{"no second attempt", "GET", "", nil, false, cut, sticky.Retry{Attempts: 1}, false, 502},
			{"no budget", "GET", "", nil, false, cut, sticky.Retry{Budget: -1}, false, 502},
			{"GET to a dead node", "GET", "", nil, true, nil, sticky.Retry{}, true, 0},
			{"POST to a dead node", "POST", "body", nil, true, nil, sticky.Retry{}, true, 0},
			{"TRACE to a dead node", "TRACE", "", nil, true, nil, sticky.Retry{}, true, 0},
			{"to a dead node without a budget", "POST", "body", nil, true, nil, sticky.Retry{Budget: -1}, true, 0},
			{"a long body to a dead node", "POST", strings.Repeat("x", 1<<20), nil, true, nil, sticky.Retry{}, true, 0},
		} {
			for _, warm := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					why := fmt.Sprintf("%s, connected before %v", tt.why, warm)
					c := newCluster(t, "a", "b")
					c.way = way
					p := c.proxy(sticky.Options{Keys: [][]byte{key(1)}, Health: sticky.Health{Interval: -1}, Retry: tt.retry, HeaderTimeout: time.Second}, "a", "b")
					pinned := withCookie("affinity=" + sticky.CookieValue(key(1), "a"))
					if warm { // a kept connection is where net/http replays by itself
						serve(p, request("GET", v4(1), pinned))
					}
					before := len(c.at("a").requests())
					if tt.dead {
						c.at("a").set(refuses)
					} else {
						c.at("a").handle(tt.node)
					}
					var body string
					c.at("b").handle(func(w http.ResponseWriter, r *http.Request) {
						b, _ := io.ReadAll(r.Body)
						body = string(b)
						fmt.Fprint(w, "b")
					})
					r := request(tt.method, v4(1), pinned)
					if tt.body != "" {
						r.Body, r.ContentLength = io.NopCloser(strings.NewReader(tt.body)), int64(len(tt.body))
					}
					if tt.edit != nil {
						tt.edit(r)
					}
					w := serve(p, r)
					a, b := c.at("a").requests()[before:], c.at("b").requests()
					s := stateOf(t, p, "a")
					if tt.again {
						if w.Code != 200 || len(b) != 1 || body != tt.body {
							t.Errorf("%s: %d, b got %q with %d bytes; want it on b", why, w.Code, b, len(body))
						}
						if set := w.Header().Get("Set-Cookie"); !strings.Contains(set, sticky.CookieValue(key(1), "b")) {
							t.Errorf("%s: the answer does not carry b's cookie: %q", why, set)
						}
						if s.Retries != 1 || s.Failures != 0 {
							t.Errorf("%s: %d retries, %d failures; want 1, 0", why, s.Retries, s.Failures)
						}
						return
					}
					// A node that got it once runs it once.
					if w.Code != tt.code || len(a) != 1 || len(b) != 0 {
						t.Errorf("%s: %d, a got %q, b got %q; want %d, and once on a", why, w.Code, a, b, tt.code)
					}
					if w.Header()["Set-Cookie"] != nil || w.Header().Get("Cache-Control") != "no-store" {
						t.Errorf("%s: %v", why, w.Header())
					}
					if s.Retries != 0 || s.Failures != 1 {
						t.Errorf("%s: %d retries, %d failures; want 0, 1", why, s.Retries, s.Failures)
					}
				})
			}
		}
	})
}

// The second connection of a replay by net/http itself is counted.
func TestReplayOnTheSameNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a")
		p := c.proxy(sticky.Options{Health: unchecked}, "a")
		serve(p, request("GET", v4(1)))
		n := 0
		c.at("a").handle(func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 1 {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "a")
		})
		if w := serve(p, request("GET", v4(1))); w.Body.String() != "a" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if s := stateOf(t, p, "a"); s.Replays != 1 || s.Requests != 2 || s.Retries != 0 {
			t.Errorf("%+v; want one replay", s)
		}
		n = 0
		if w := serve(p, request("POST", v4(1))); w.Code != 502 || n != 1 {
			t.Errorf("a POST on a connection that dies: %d, run %d times; want 502, once", w.Code, n)
		}
	})
}

// deaf is a connection that takes nothing more once it is told so, and says
// nothing about it before.
type deaf struct {
	net.Conn
	now *atomic.Bool
}

func (c deaf) Write(p []byte) (int, error) {
	if c.now.Load() {
		return 0, &net.OpError{Op: "write", Err: syscall.EPIPE}
	}
	return c.Conn.Write(p)
}

// What a dead connection did not take goes to the same node first, whatever it
// is; the user need not move for that.
func TestDeadConnectionTookNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		for _, tt := range []struct {
			why       string
			evenFresh bool // connections are so
			chunked   bool
			want      string
		}{
			{"a kept connection", false, false, "a"},
			{"every connection to it", true, false, "b"},
			{"a kept connection, a body of unknown length", false, true, "a"},
			{"every connection to it, a body of unknown length", true, true, "b"},
		} {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, "a", "b")
				var kept, fresh atomic.Bool
				dials := 0
				o := sticky.Options{
					Health: unchecked, Keys: [][]byte{key(1)},
					Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := c.dial(ctx, network, addr)
						if addr != "a:80" || err != nil {
							return conn, err
						}
						if dials++; dials > 1 {
							return deaf{conn, &fresh}, nil
						}
						return deaf{conn, &kept}, nil
					},
				}
				way(t, &o)
				p := newProxy(t, named("a", "b"), o)
				pinned := withCookie("affinity=" + sticky.CookieValue(key(1), "a"))
				serve(p, request("GET", v4(1), pinned)) // connects
				kept.Store(true)
				fresh.Store(tt.evenFresh)
				r := request("POST", v4(1), pinned)
				long := strings.Repeat("x", 100_000)
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(long)), int64(len(long))
				if tt.chunked {
					r.ContentLength = -1
				}
				for _, id := range []string{"a", "b"} {
					c.at(id).handle(func(w http.ResponseWriter, r *http.Request) {
						if b, err := io.ReadAll(r.Body); string(b) != long || err != nil {
							t.Errorf("%s: %s got %d bytes, %v", tt.why, id, len(b), err)
						}
						io.WriteString(w, id)
					})
				}
				w := serve(p, r)
				if w.Body.String() != tt.want || (w.Header()["Set-Cookie"] != nil) != (tt.want == "b") {
					t.Errorf("%s: %d %s %v; want %s", tt.why, w.Code, w.Body, w.Header(), tt.want)
				}
			})
		}
	})
}

// The goroutine of an attempt that has failed may come late, between the
// decision to try again and the next attempt. It gets nothing, so that the next
// node gets the whole body.
func TestLateReadOfAFailedAttempt(t *testing.T) {
	b := sticky.NewReplayBody(io.NopCloser(strings.NewReader("0123456789")), 4)
	first := b.Attempt()
	buf := make([]byte, 3)
	if n, err := first.Read(buf); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if !b.Rewind() {
		t.Fatal("three bytes of four that are kept cannot be given again")
	}
	if n, err := first.Read(buf); n != 0 || err == nil {
		t.Errorf("the failed attempt gets %q, %v", buf[:n], err)
	}
	if got, err := io.ReadAll(b.Attempt()); string(got) != "0123456789" || err != nil {
		t.Errorf("the next attempt gets %q, %v", got, err)
	}
	if b.Rewind() {
		t.Error("ten bytes can be given again, of which four are kept")
	}
	if got, err := io.ReadAll(b.Attempt()); len(got) > 0 || err == nil {
		t.Errorf("an attempt whose beginning is lost gets %q, %v", got, err)
	}
}

// A body that the client cannot finish is no node's fault, and is not sent on.
func TestClientBreaksItsBody(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			c.way = way
			p := c.proxy(sticky.Options{Health: unchecked}, "a", "b")
			for range 5 {
				r := request("POST", v4(1))
				r.Header.Set("Idempotency-Key", "k")
				r.Body = io.NopCloser(io.MultiReader(strings.NewReader("some"), iotest.ErrReader(io.ErrUnexpectedEOF)))
				r.ContentLength = -1
				if w := serve(p, r); w.Code != http.StatusBadRequest {
					t.Errorf("%d; want 400", w.Code)
				}
			}
			r := request("POST", v4(1))
			w := httptest.NewRecorder()
			r.Body, r.ContentLength = http.MaxBytesReader(w, io.NopCloser(bytes.NewReader(make([]byte, 100))), 10), -1
			if p.ServeHTTP(w, r); w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%d; want 413", w.Code)
			}
			for _, n := range p.Status().Nodes {
				if n.State != "up" || n.Retries != 0 || n.Failures != 0 {
					t.Errorf("%+v; want that nothing is counted", n)
				}
			}
		})
	})
}

// Attempts bounds the nodes that may be slow; a refusal costs nothing.
func TestAttempts(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			all := ids(8)
			c := newCluster(t, all...)
			c.way = way
			p := c.proxy(sticky.Options{By: sticky.ByIP(), Health: unchecked}, all...)
			for _, id := range all {
				c.at(id).handle(cut)
			}
			if w := serve(p, request("GET", v4(1))); w.Code != 502 {
				t.Errorf("%d", w.Code)
			}
			asked := 0
			for _, id := range all {
				asked += len(c.at(id).requests())
			}
			if asked != 3 {
				t.Errorf("%d nodes were asked; want 3", asked)
			}
			for _, id := range all {
				c.at(id).set(refuses)
			}
			last := all[slices.IndexFunc(all, func(id string) bool { return len(c.at(id).requests()) == 0 })]
			c.at(last).set(up)
			c.at(last).handle(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, last) })
			if w := serve(p, request("POST", v4(1))); w.Body.String() != last {
				t.Errorf("seven nodes refuse, the eighth does not: %d %s", w.Code, w.Body)
			}
		})
	})
}

func TestBudget(t *testing.T) {
	sick := map[string]bool{"a": true}
	p := newProxy(t, named("a", "b"), sticky.Options{
		By: sticky.ByIP(), Health: sticky.Health{Interval: -1, Fails: 1 << 20},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if sick[r.URL.Host] {
				httptrace.ContextClientTrace(r.Context()).GotConn(httptrace.GotConnInfo{})
				return nil, io.ErrUnexpectedEOF
			}
			return response(200, r.URL.Host), nil
		}),
	})
	sick["a"] = false
	user := userOf(t, p, "a")
	sick["a"] = true
	ok := 0
	for range 1000 {
		if serve(p, request("GET", user)).Code == 200 {
			ok++
		}
	}
	// 500 saved up, and a tenth of what came meanwhile.
	if ok < 590 || ok > 602 {
		t.Errorf("%d of 1000 were sent again; want 600", ok)
	}
	if s := p.Status(); s.OverBudget != int64(1000-ok) {
		t.Errorf("%d over budget; want %d", s.OverBudget, 1000-ok)
	}
}

// What a transport of another kind says of an error is believed, and no more.
func TestOtherTransports(t *testing.T) {
	for _, tt := range []struct {
		why   string
		err   error
		again bool
	}{
		{"not sent", fmt.Errorf("full: %w", sticky.ErrNotSent), true},
		{"a dial", &net.OpError{Op: "dial", Err: errors.New("x")}, true},
		{"a read", &net.OpError{Op: "read", Err: errors.New("x")}, false},
		{"anything", errors.New("x"), false},
	} {
		first := ""
		p := newProxy(t, named("a", "b"), sticky.Options{Health: unchecked, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if first == "" || first == r.URL.Host {
				first = r.URL.Host
				return nil, tt.err
			}
			return response(200, r.URL.Host), nil
		})})
		r := request("POST", v4(1))
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1
		if w := serve(p, r); (w.Code == 200) != tt.again {
			t.Errorf("%s: %d; want another node: %v", tt.why, w.Code, tt.again)
		}
	}
}

// A client that goes away is no failure of the node, and nothing is tried again.
func TestClientGoesAway(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			c.way = way
			p := c.proxy(sticky.Options{Health: unchecked}, "a", "b")
			c.at("a").handle(hang)
			c.at("b").handle(hang)
			for range 5 {
				r := request("GET", v4(1))
				ctx, cancel := contextWithTimeout(t, time.Second)
				serve(p, r.WithContext(ctx))
				cancel()
			}
			s := p.Status()
			for _, n := range s.Nodes {
				if n.State != "up" || n.Retries != 0 || n.Failures != 0 {
					t.Errorf("%+v; want that nothing is counted", n)
				}
			}
			if s.Canceled != 5 {
				t.Errorf("%d canceled; want 5", s.Canceled)
			}
		})
	})
}
