package sticky_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/distsession/session/sticky"
)

// behind is a ReverseProxy with the transport, in front of a node.
func behind(t *testing.T, rt http.RoundTripper, node string) string {
	t.Helper()
	to, err := url.Parse(node)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: rt, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Trailer = r.In.Trailer // whose values come after the body
	}}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	return s.URL
}

func TestDirectUpgrade(t *testing.T) {
	for _, tt := range []struct {
		name  string
		proxy bool
	}{{"by itself", false}, {"behind ReverseProxy", true}} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{HeaderTimeout: time.Minute}, func(t *testing.T, rt http.RoundTripper) {
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					req, err := http.ReadRequest(r)
					if err != nil || req.Header.Get("Upgrade") != "echo" {
						return
					}
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome")
					io.Copy(c, r)
				})
				at := s.url
				if tt.proxy {
					at, rt = behind(t, rt, s.url), http.DefaultTransport
				}
				req := directRequest(t, "GET", at, nil)
				req.Header.Set("Connection", "Upgrade")
				req.Header.Set("Upgrade", "echo")
				res, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				rw, ok := res.Body.(io.ReadWriteCloser)
				if !ok || res.StatusCode != 101 {
					t.Fatalf("%d, %T", res.StatusCode, res.Body)
				}
				defer rw.Close()
				buf := make([]byte, 16)
				if n, err := io.ReadFull(rw, buf[:7]); err != nil || string(buf[:n]) != "welcome" {
					t.Fatalf("what came with the header is lost: %q, %v", buf[:n], err)
				}
				for _, word := range []string{"one", "two"} {
					io.WriteString(rw, word)
					if n, err := io.ReadFull(rw, buf[:3]); err != nil || string(buf[:n]) != word {
						t.Fatalf("%q, %v", buf[:n], err)
					}
				}
				if err := rw.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if n, err := rw.Read(buf); n != 0 || err != io.EOF {
					t.Errorf("after CloseWrite: %d, %v", n, err)
				}
			})
		})
	}
}

// The stream is the caller's: the end of the request's context, as when a
// handler returns, does not break it.
func TestDirectUpgradeOutlivesTheContext(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		req := directRequest(t, "GET", s.url, nil).WithContext(ctx)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "echo")
		res, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		cancel()
		io.WriteString(res.Body.(io.Writer), "one")
		var buf [3]byte
		if _, err := io.ReadFull(res.Body, buf[:]); err != nil {
			t.Error(err)
		}
	})
}

func TestDirectUpgradeBeforeTheWholeRequest(t *testing.T) {
	s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		awaitEnd(c)
	})
	b := newSpyBody("")
	b.Reader = endless{}
	req := directRequest(t, "POST", s.url, b)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	if got := sendDirect(direct(t, nil), req); got.err == nil {
		t.Error("the rest of the body would have gone to the new protocol")
	}
	b.closedSoon(t)
}

// What ReverseProxy passes on passes, in both directions.
func TestDirectBehindReverseProxy(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("Trailer", "Declared")
			b, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s", b, r.Trailer.Get("T"))
			w.(http.Flusher).Flush()
			w.Header().Set("Declared", "yes")
			w.Header().Set(http.TrailerPrefix+"Undeclared", "too")
		}))
		defer app.Close()
		at := behind(t, rt, app.URL)
		hints := ""
		req := directRequest(t, "POST", at, newSpyBody("hello"))
		req.Trailer = http.Header{"T": {"end"}}
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hints += h.Get("Link"); return nil },
		}))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(b) != "hello end" || hints != "</style.css>" {
			t.Errorf("%q, %v, hints %q", b, err, hints)
		}
		if res.Trailer.Get("Declared") != "yes" || res.Trailer.Get("Undeclared") != "too" {
			t.Errorf("trailers %v", res.Trailer)
		}
	})
}

// A response is passed on as it comes.
func TestDirectStreams(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		next := make(chan struct{})
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				<-next
			}
		}))
		defer app.Close()
		res, err := http.Get(behind(t, rt, app.URL))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := lines.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
				t.Fatalf("%q, %v", line, err)
			}
			lines.ReadString('\n')
			next <- struct{}{}
		}
	})
}

// Many at once, some of them ended at a bad moment: each gets its own response,
// and in the end no goroutine and no connection is left.
func TestDirectMany(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch id := r.Header.Get("X-Id"); {
		case r.URL.Path == "/length":
			fmt.Fprintf(w, "%s %d", id, len(b))
		case r.URL.Path == "/chunked":
			fmt.Fprintf(w, "%s ", id)
			w.(http.Flusher).Flush()
			fmt.Fprintf(w, "%d", len(b))
		case r.URL.Path == "/close":
			w.Header().Set("Connection", "close")
			fmt.Fprintf(w, "%s %d", id, len(b))
		case r.URL.Path == "/abort":
			panic(http.ErrAbortHandler)
		}
	}))
	defer app.Close()
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		var all sync.WaitGroup
		for worker := range 8 {
			all.Go(func() {
				for i := range 60 {
					ctx, cancel := context.WithCancel(t.Context())
					switch rand.IntN(4) {
					case 0:
						time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
					case 1:
						ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
					}
					path := []string{"/length", "/chunked", "/close", "/abort"}[rand.IntN(4)]
					size := []int{0, 10, 100_000}[rand.IntN(3)]
					var b io.Reader
					if size > 0 {
						b = bytes.NewReader(make([]byte, size))
						if rand.IntN(2) == 0 {
							b = iotest.HalfReader(b)
						}
					}
					req, err := http.NewRequestWithContext(ctx, "POST", app.URL+path, b)
					if err != nil {
						t.Error(err)
					}
					id := fmt.Sprint(worker, ".", i)
					req.Header.Set("X-Id", id)
					got := sendDirect(rt, req)
					switch want := fmt.Sprint(id, " ", size); {
					case got.err == nil && path != "/abort" && got.body != want:
						t.Errorf("got %q, want %q", got.body, want)
					case got.err == nil && path == "/abort":
						t.Error("no error")
					case got.err != nil && ctx.Err() == nil && path != "/abort":
						t.Errorf("%s: %v", path, got.err)
					}
					cancel()
				}
			})
		}
		all.Wait()
		rt.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		eventually(t, "goroutines or connections are left", func() bool {
			runtime.GC()
			return runtime.NumGoroutine() <= goroutines && openFiles(t) <= files
		})
	})
}

// openFiles counts the descriptors of this process, where that is possible.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
