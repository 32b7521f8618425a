package sticky_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

const (
	okHello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	evil    = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
)

// A connection that ended while it was idle costs no request, not even one that
// must not be repeated.
func TestDirectStale(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(c net.Conn)
	}{
		{"closed", func(c net.Conn) { c.Close() }},
		{"closed in one direction", func(c net.Conn) { c.(*net.TCPConn).CloseWrite() }},
		{"reset", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }},
		{"408", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
			c.Close()
		}},
		{"response splitting", func(c net.Conn) { io.WriteString(c, evil) }},
		{"one byte", func(c net.Conn) { io.WriteString(c, "\r") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			done := make(chan struct{}, 1)
			read := make(chan struct{})
			s := newRawNode(t, func(n int, c net.Conn, r *bufio.Reader) {
				for takeRequest(r) {
					io.WriteString(c, okHello)
					if n == 0 {
						<-read // what comes now was not asked for, beyond doubt
						tt.then(c)
						done <- struct{}{}
						awaitEnd(c)
						return
					}
				}
			})
			rt := direct(t, nil)
			for i := range 3 {
				got := sendDirect(rt, directRequest(t, "POST", s.url, newSpyBody("x")))
				if got.err != nil || got.body != "hello" {
					t.Fatalf("request %d: %+v", i, got)
				}
				if i == 0 {
					close(read)
					awaitSignal(t, "the node's deed", done)
				}
			}
			if n := s.accepted(); n != 2 {
				t.Errorf("%d connections, want 2", n)
			}
		})
	}
}

// What came beside a response is there at once, and http.Transport's test knows
// of it only a moment later.
func TestDirectLeftoverIsNoResponse(t *testing.T) {
	s := newRawNode(t, func(n int, c net.Conn, r *bufio.Reader) {
		for takeRequest(r) {
			if n == 0 {
				io.WriteString(c, okHello+evil)
				continue
			}
			io.WriteString(c, okHello)
		}
	})
	rt := direct(t, nil)
	for range 3 {
		if got := sendDirect(rt, directRequest(t, "GET", s.url, nil)); got.body != "hello" {
			t.Fatalf("%+v", got)
		}
	}
}

// A node that closes a connection just as the next request goes out leaves it
// open whether that was executed. It is repeated where that does no harm.
func TestDirectReplay(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		body         bool // that can be had again
		stream       bool // a body that cannot
		key          string
		fresh        bool // the connection was not used before
		bytes        string
		replayed     bool
		only         string
	}{
		{name: "GET", method: "GET", replayed: true},
		{name: "HEAD", method: "HEAD", replayed: true},
		{name: "OPTIONS", method: "OPTIONS", replayed: true},
		{name: "TRACE", method: "TRACE", only: "it replays TRACE"},
		{name: "POST", method: "POST"},
		{name: "POST with a body", method: "POST", body: true},
		{name: "PUT", method: "PUT", body: true},
		{name: "DELETE", method: "DELETE"},
		{name: "key", method: "POST", key: "k", body: true, replayed: true},
		{name: "key, no body", method: "POST", key: "k", replayed: true},
		{name: "key, a stream", method: "POST", key: "k", stream: true},
		{name: "GET with a stream", method: "GET", stream: true},
		{name: "new connection", method: "GET", fresh: true},
		{name: "half an answer", method: "GET", bytes: "HTTP/1.1 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
				if _, std := rt.(*http.Transport); std && tt.only != "" {
					t.Skip(tt.only)
				}
				var mu sync.Mutex
				seen := 0
				s := newRawNode(t, func(n int, c net.Conn, r *bufio.Reader) {
					for i := 0; takeRequest(r); i++ {
						mu.Lock()
						seen++
						mu.Unlock()
						if n == 0 && (i == 1 || tt.fresh) {
							io.WriteString(c, tt.bytes)
							return
						}
						io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
					}
				})
				want := 1
				if !tt.fresh {
					if got := sendDirect(rt, directRequest(t, "GET", s.url, nil)); got.err != nil {
						t.Fatal(got.err)
					}
					want = 2
				}
				var b io.Reader
				switch {
				case tt.body:
					b = strings.NewReader("hello")
				case tt.stream:
					b = newSpyBody("hello")
				}
				req := directRequest(t, tt.method, s.url, b)
				if tt.key != "" {
					req.Header.Set("Idempotency-Key", tt.key)
				}
				got := sendDirect(rt, req)
				if tt.replayed {
					want++
				}
				mu.Lock()
				defer mu.Unlock()
				if (got.err == nil) != tt.replayed || seen != want {
					t.Errorf("error %v, %d requests, want %d", got.err, seen, want)
				}
				if errors.Is(got.err, sticky.ErrNotSent) {
					t.Error("it was sent")
				}
			})
		})
	}
}

// When the replay's connection is refused, the first attempt was sent for all
// that.
func TestDirectNotSentMeansByNoAttempt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		l.Close()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		takeRequest(r)
		io.WriteString(c, okHello)
		takeRequest(r)
	}()
	rt := direct(t, nil)
	url := "http://" + l.Addr().String()
	if got := sendDirect(rt, directRequest(t, "GET", url, nil)); got.err != nil {
		t.Fatal(got.err)
	}
	if got := sendDirect(rt, directRequest(t, "GET", url, nil)); got.err == nil || errors.Is(got.err, sticky.ErrNotSent) {
		t.Error(got.err)
	}
	awaitSignal(t, "the node's end", served)
}

func TestDirectBodyNotRead(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		gone := make(chan struct{}, 2)
		s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
			takeRequest(r)
			io.WriteString(c, okHello)
			awaitEnd(c)
			gone <- struct{}{}
		})
		for range 2 {
			res, err := rt.RoundTrip(directRequest(t, "GET", s.url, nil))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := res.Body.Read(make([]byte, 2)); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			res.Body.Close()
			res.Body.Close()
			if _, err := res.Body.Read(make([]byte, 2)); err == nil || err == io.EOF {
				t.Errorf("read after close: %v", err)
			}
			awaitSignal(t, "the end of the connection", gone)
		}
	})
}

// Close from another goroutine ends a Read.
func TestDirectCloseEndsRead(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
			takeRequest(r)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			awaitEnd(c)
		})
		res, err := rt.RoundTrip(directRequest(t, "GET", s.url, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if n, err := res.Body.Read(make([]byte, 5)); n != 0 || err == nil || err == io.EOF {
				t.Errorf("read %d, %v", n, err)
			}
		}()
		res.Body.Close()
		awaitSignal(t, "the end of Read", done)
	})
}

func TestDirectCloseOfTheRequest(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*http.Request)
	}{
		{"field", func(r *http.Request) { r.Close = true }},
		{"header", func(r *http.Request) { r.Header.Set("Connection", "close") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			closes := make(chan bool, 2)
			s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				closes <- req.Close
				io.WriteString(c, okHello)
				awaitEnd(c)
			})
			rt := direct(t, nil)
			for range 2 {
				req := directRequest(t, "GET", s.url, nil)
				tt.edit(req)
				if got := sendDirect(rt, req); got.err != nil {
					t.Fatal(got.err)
				}
				if !<-closes {
					t.Error("the node was not told")
				}
			}
			if n := s.accepted(); n != 2 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

func TestDirectMaxIdleAndCloseIdle(t *testing.T) {
	for _, tt := range []struct {
		name  string
		max   int
		close bool // CloseIdleConnections, with all in use
		after bool // and again, when they are idle
		kept  int
	}{
		{name: "all", max: 8, kept: 4},
		{name: "some", max: 3, kept: 3},
		{name: "none", max: -1, kept: 0},
		{name: "closed while in use", max: 8, close: true, kept: 0},
		{name: "closed while idle", max: 8, after: true, kept: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var together sync.WaitGroup // four requests, four connections
			together.Add(4)
			var mu sync.Mutex
			open := 0
			s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
				mu.Lock()
				open++
				mu.Unlock()
				takeRequest(r)
				together.Done()
				together.Wait()
				io.WriteString(c, okHello)
				awaitEnd(c)
				mu.Lock()
				open--
				mu.Unlock()
			})
			rt := direct(t, &sticky.DirectOptions{MaxIdle: tt.max})
			var all sync.WaitGroup
			var answers [4]*http.Response
			for i := range answers {
				req := directRequest(t, "GET", s.url, nil)
				all.Go(func() {
					var err error
					if answers[i], err = rt.RoundTrip(req); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			if tt.close {
				rt.CloseIdleConnections()
			}
			for _, res := range answers {
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Error(err)
				}
			}
			if tt.after {
				rt.CloseIdleConnections()
			}
			eventually(t, "not as many connections are left as should be", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return open == tt.kept
			})
		})
	}
}

// dialing connects in memory, for tests in a bubble, where time passes as soon
// as everybody waits.
func dialing(serve func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			serve(server)
		}()
		return client, nil
	}
}

func TestDirectIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(map[int]time.Time)
		var mu sync.Mutex
		begin := time.Now()
		conns := 0
		o := &sticky.DirectOptions{IdleTimeout: time.Minute, Dial: dialing(func(c net.Conn) {
			mu.Lock()
			n := conns
			conns++
			mu.Unlock()
			r := bufio.NewReader(c)
			for takeRequest(r) {
				time.Sleep(time.Second)
				io.WriteString(c, okHello)
			}
			mu.Lock()
			defer mu.Unlock()
			closed[n] = time.Now()
		})}
		rt := sticky.NewDirectTransport(o)
		get := func() {
			if got := sendDirect(rt, directRequest(t, "GET", "http://node", nil)); got.err != nil {
				t.Error(got.err)
			}
		}
		var two sync.WaitGroup
		two.Go(get)
		synctest.Wait()
		two.Go(get)
		two.Wait()
		// The one that was used last is used again.
		for range 3 {
			time.Sleep(40 * time.Second)
			get()
		}
		time.Sleep(2 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if conns != 2 || len(closed) != 2 {
			t.Fatalf("%d connections, %d closed", conns, len(closed))
		}
		first, last := closed[0].Sub(begin), closed[1].Sub(begin)
		if first > last {
			first, last = last, first
		}
		if first < time.Minute || first > 62*time.Second || last < 3*time.Minute || last > 3*time.Minute+10*time.Second {
			t.Errorf("closed after %v and %v", first, last)
		}
	})
}

func TestDirectTLS(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
			s.TLS = &tls.Config{MinVersion: version, MaxVersion: version}
			s.EnableHTTP2 = true
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			var opened atomic.Int32
			closed := make(chan struct{}, 10)
			s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				switch state {
				case http.StateNew:
					opened.Add(1)
				case http.StateClosed:
					closed <- struct{}{}
				}
			}
			s.StartTLS()
			defer s.Close()
			pool := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			both(t, sticky.DirectOptions{TLS: &tls.Config{RootCAs: pool}}, func(t *testing.T, rt http.RoundTripper) {
				opened.Store(0)
				for range 3 {
					got := sendDirect(rt, directRequest(t, "POST", s.URL, strings.NewReader("hello")))
					if got.err != nil || got.body != "hello" || got.res.ProtoMajor != 1 {
						t.Fatalf("%+v", got)
					}
					if got.res.TLS == nil || got.res.TLS.Version != version {
						t.Errorf("TLS %v", got.res.TLS)
					}
				}
				if n := opened.Load(); n != 1 {
					t.Errorf("%d connections: a session ticket is nothing unasked for", n)
				}
			})
			awaitSignal(t, "the end of the connection of http.Transport", closed)
			awaitSignal(t, "the end of that of DirectTransport", closed)

			rt := direct(t, &sticky.DirectOptions{TLS: &tls.Config{RootCAs: pool}})
			if got := sendDirect(rt, directRequest(t, "POST", s.URL, newSpyBody("hello"))); got.err != nil {
				t.Fatal(got.err)
			}
			// The server closes connections that are idle, and so this one is, sooner
			// or later. A POST does not notice.
			eventually(t, "the server did not close", func() bool {
				s.Config.SetKeepAlivesEnabled(false)
				return len(closed) > 0
			})
			s.Config.SetKeepAlivesEnabled(true)
			if got := sendDirect(rt, directRequest(t, "POST", s.URL, newSpyBody("hello"))); got.err != nil {
				t.Error(got.err)
			}
			if got := sendDirect(direct(t, nil), directRequest(t, "GET", s.URL, nil)); !errors.Is(got.err, sticky.ErrNotSent) {
				t.Errorf("a certificate of nobody's: %v", got.err)
			}
		})
	}
}

// Bytes that nobody asked for are found in TLS as well, also where they came in
// one record with the response, or have been read from the socket already.
func TestDirectTLSUnasked(t *testing.T) {
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	config := cert.TLS.Clone()
	config.NextProtos = nil
	for _, second := range []bool{false, true} { // record, for what was not asked for
		s := newRawNode(t, func(n int, c net.Conn, _ *bufio.Reader) {
			out := bufio.NewWriter(c)
			over := tls.Server(segment{c, out}, config)
			r := bufio.NewReader(over)
			for takeRequest(r) {
				switch {
				case n > 0:
					io.WriteString(over, okHello)
				case second:
					io.WriteString(over, okHello)
					io.WriteString(over, evil)
				default:
					io.WriteString(over, okHello+evil)
				}
				out.Flush()
			}
		})
		rt := direct(t, &sticky.DirectOptions{TLS: cert.Client().Transport.(*http.Transport).TLSClientConfig})
		for range 3 {
			got := sendDirect(rt, directRequest(t, "GET", "https"+strings.TrimPrefix(s.url, "http"), nil))
			if got.err != nil || got.body != "hello" {
				t.Fatalf("%+v", got)
			}
		}
		if n := s.accepted(); n != 2 {
			t.Errorf("%d connections", n)
		}
	}
}

// segment keeps what is written until something is to be read, so that it
// arrives at once.
type segment struct {
	net.Conn
	out *bufio.Writer
}

func (s segment) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s segment) Read(p []byte) (int, error) {
	if err := s.out.Flush(); err != nil {
		return 0, err
	}
	return s.Conn.Read(p)
}
