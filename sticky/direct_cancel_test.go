package sticky_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

// A request can be ended at every stage; then its connection is closed, and its
// body.
func TestDirectCancel(t *testing.T) {
	reached := make(chan struct{}, 1)
	reach := func() { reached <- struct{}{} }
	// after is a node that says so much and then nothing.
	after := func(said string) func(c net.Conn, r *bufio.Reader) {
		return func(c net.Conn, r *bufio.Reader) {
			takeRequest(r)
			io.WriteString(c, said)
			reach()
			awaitEnd(c)
		}
	}
	ended := make(chan struct{}, 1)
	gone := make(chan struct{}, 1)
	for _, tt := range []struct {
		name  string
		dial  func(ctx context.Context, network, addr string) (net.Conn, error)
		tls   bool
		serve func(c net.Conn, r *bufio.Reader)
		body  func() io.Reader
		why   string
		only  string // why http.Transport is not asked
	}{
		{name: "dial", only: "it dials on, for others", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			reach()
			<-ctx.Done()
			gone <- struct{}{}
			return nil, ctx.Err()
		}},
		{name: "handshake", only: "it dials on, for others", tls: true, serve: func(c net.Conn, r *bufio.Reader) { r.ReadByte(); reach(); awaitEnd(c) }},
		{name: "write", body: func() io.Reader { return endless{} }, serve: func(c net.Conn, r *bufio.Reader) {
			r.ReadByte()
			reach()
			<-ended // and take nothing until then
			awaitEnd(c)
		}},
		{name: "read of the request's body", only: "it waits for the read under way", body: func() io.Reader { return stuck{t} }, serve: func(c net.Conn, r *bufio.Reader) { r.ReadByte(); reach(); awaitEnd(c) },
			why: "the client sends no more, and is not waited for"},
		{name: "wait for the header", serve: after("")},
		{name: "header", serve: after("HTTP/1.1 200 OK\r\nContent-")},
		{name: "after 103", serve: after("HTTP/1.1 103 Early Hints\r\n\r\n")},
		{name: "body", serve: after("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhell")},
		{name: "chunked body", serve: after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhell\r\n")},
		{name: "body without end", serve: after("HTTP/1.1 200 OK\r\n\r\nhell"), why: "what was read before must not pass for the whole"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{Dial: tt.dial}, func(t *testing.T, rt http.RoundTripper) {
				if _, std := rt.(*http.Transport); std && tt.only != "" {
					t.Skip(tt.only)
				}
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					tt.serve(c, r)
					gone <- struct{}{}
				})
				if tt.tls {
					s.url = "https" + s.url[len("http"):]
				}
				cause := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				b := newSpyBody("")
				if tt.body != nil {
					b.Reader = tt.body()
				}
				req := directRequest(t, "POST", s.url, b).WithContext(ctx)
				if tt.body == nil {
					req.Body = nil
				}
				done := make(chan error, 1)
				go func() { done <- sendDirect(rt, req).err }()
				awaitSignal(t, "the stage", reached)
				cancel(cause)
				select {
				case err := <-done:
					if !errors.Is(err, cause) {
						t.Errorf("error %v (%s)", err, tt.why)
					}
				case <-time.After(patience):
					t.Fatal("the request goes on")
				}
				if tt.name == "write" {
					ended <- struct{}{}
				}
				awaitSignal(t, "the end of the connection", gone)
				if tt.body != nil && tt.name != "read of the request's body" {
					b.closedSoon(t)
				}
			})
		})
	}
}

func TestDirectCancelledBefore(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := answering(t, "HTTP/1.1 204 No Content\r\n\r\n")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b := newSpyBody("hello")
		if got := sendDirect(rt, directRequest(t, "POST", s.url, b).WithContext(ctx)); !errors.Is(got.err, context.Canceled) {
			t.Error(got.err)
		}
		b.closedSoon(t)
		if n := s.accepted(); n != 0 {
			t.Errorf("%d connections", n)
		}
	})
}

// Contexts end mostly after their request, as that of a handler does.
func TestDirectCancelledAfter(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			if got := sendDirect(rt, directRequest(t, "GET", s.url, nil).WithContext(ctx)); got.err != nil {
				t.Fatal(got.err)
			}
			cancel()
		}
		if n := s.accepted(); n != 1 {
			t.Errorf("%d connections: the contexts ended those of others", n)
		}
	})
}

func TestDirectHeaderTimeout(t *testing.T) {
	const (
		short = 50 * time.Millisecond
		long  = 500 * time.Millisecond // in which a loaded machine answers
	)
	saying := func(said string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, said) } }
	for _, tt := range []struct {
		name  string
		serve func(c net.Conn) // each request
		body  io.Reader
		ok    bool
		why   string
	}{
		{name: "no answer", serve: saying("")},
		{name: "after a body", body: newSpyBody("hello"), serve: saying("")},
		{name: "half a header", serve: saying("HTTP/1.1 200 OK\r\nContent-")},
		{name: "103 only", serve: saying("HTTP/1.1 103 Early Hints\r\n\r\n")},
		{name: "slow body", ok: true, serve: func(c net.Conn) {
			io.WriteString(c, okHello[:len(okHello)-1])
			time.Sleep(3 * long / 2)
			io.WriteString(c, okHello[len(okHello)-1:])
		}, why: "only the header is timed"},
		{name: "slow request", ok: true, body: &slow{wait: 3 * long / 2}, serve: saying(okHello), why: "time runs from the end of the request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			limit := short
			if tt.ok {
				limit = long
			}
			both(t, sticky.DirectOptions{HeaderTimeout: limit}, func(t *testing.T, rt http.RoundTripper) {
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					for takeRequest(r) {
						tt.serve(c)
					}
				})
				for i := range 2 { // the second over the connection of the first
					got := sendDirect(rt, directRequest(t, "POST", s.url, tt.body))
					switch {
					case tt.ok && (got.err != nil || got.body != "hello"):
						t.Errorf("request %d: %+v (%s)", i, got, tt.why)
					case !tt.ok && !timedOut(got.err):
						t.Errorf("error %v", got.err)
					case !tt.ok && errors.Is(got.err, sticky.ErrNotSent):
						t.Error("it was sent")
					}
				}
			})
		})
	}
}

func awaitSignal(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("no sign of " + what)
	}
}

// stuck gives no byte before the end of the test.
type stuck struct{ t *testing.T }

func (s stuck) Read([]byte) (int, error) {
	<-s.t.Context().Done()
	return 0, io.EOF
}

// slow gives three bytes, a wait before each.
type slow struct {
	wait time.Duration
	n    int
}

func (s *slow) Read(p []byte) (int, error) {
	if s.n = (s.n + 1) % 4; s.n == 0 {
		return 0, io.EOF
	}
	time.Sleep(s.wait)
	p[0] = 'x'
	return 1, nil
}

// A deadline that was set for one request is of no harm to the connection, nor
// to the responses after it.
func TestDirectHeaderTimeoutPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := 0
		var pause time.Duration
		rt := sticky.NewDirectTransport(&sticky.DirectOptions{HeaderTimeout: 16 * time.Second, IdleTimeout: time.Hour, Dial: dialing(func(c net.Conn) {
			conns++
			r := bufio.NewReader(c)
			for takeRequest(r) {
				if pause == 0 {
					io.WriteString(c, okHello)
					continue
				}
				time.Sleep(pause)
				io.WriteString(c, okHello[:len(okHello)-1])
				time.Sleep(pause)
				io.WriteString(c, okHello[len(okHello)-1:])
			}
		})})
		defer rt.CloseIdleConnections()
		for _, wait := range []time.Duration{0, 0, time.Second, 16 * time.Second, 17 * time.Second, time.Minute} {
			time.Sleep(wait)
			for _, pause = range []time.Duration{0, time.Second, 15 * time.Second} {
				if got := sendDirect(rt, directRequest(t, "POST", "http://node", nil)); got.err != nil || got.body != "hello" {
					t.Errorf("after %v, %v: %+v", wait, pause, got)
				}
			}
		}
		pause = 0
		for range 2 {
			if got := sendDirect(rt, directRequest(t, "POST", "http://node", nil)); got.err != nil {
				t.Error(got.err)
			}
		}
		if conns != 1 {
			t.Errorf("%d connections", conns)
		}
		pause = 18 * time.Second
		begin := time.Now()
		if got := sendDirect(rt, directRequest(t, "POST", "http://node", nil)); !timedOut(got.err) {
			t.Errorf("%+v", got)
		}
		if took := time.Since(begin); took < 16*time.Second || took > 17*time.Second+10*time.Millisecond { // a look at a pipe takes one
			t.Errorf("timed out after %v", took)
		}
		time.Sleep(time.Minute) // the node's end
	})
}

// A node that takes no more of the request is given up as one that does not
// answer, unless it has answered; what was set for that is of no harm to the
// connection later.
func TestDirectNodeTakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := 0
		stop := make(chan struct{})
		rt := sticky.NewDirectTransport(&sticky.DirectOptions{HeaderTimeout: 16 * time.Second, IdleTimeout: time.Hour, Dial: dialing(func(c net.Conn) {
			conns++
			r := bufio.NewReader(c)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				switch req.URL.Path {
				case "/answers":
					io.WriteString(c, okHello)
					fallthrough
				case "/hangs":
					<-stop
					return
				case "/switches":
					io.Copy(io.Discard, req.Body)
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
					io.Copy(c, r)
					return
				}
				io.Copy(io.Discard, req.Body)
				io.WriteString(c, okHello)
			}
		})})
		defer rt.CloseIdleConnections()
		ask := func(path string, body io.Reader) directResult {
			return sendDirect(rt, directRequest(t, "POST", "http://node"+path, body))
		}
		long := func() io.Reader { return io.LimitReader(endless{}, 1<<20) }
		for range 3 {
			for _, body := range []io.Reader{long(), nil, &slow{wait: 15 * time.Second}} {
				if got := ask("/", body); got.err != nil || got.body != "hello" {
					t.Errorf("%+v", got)
				}
				time.Sleep(20 * time.Second)
			}
		}
		if conns != 1 {
			t.Errorf("%d connections", conns)
		}
		if got := ask("/answers", long()); got.err != nil || got.body != "hello" {
			t.Errorf("%+v", got)
		}
		begin := time.Now()
		if got := ask("/hangs", long()); !errors.Is(got.err, os.ErrDeadlineExceeded) || errors.Is(got.err, sticky.ErrNotSent) {
			t.Errorf("%+v", got)
		}
		if took := time.Since(begin); took < 16*time.Second || took > 17*time.Second+10*time.Millisecond {
			t.Errorf("timed out after %v", took)
		}
		close(stop)

		res, err := rt.RoundTrip(directRequest(t, "POST", "http://node/switches", long()))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		time.Sleep(time.Minute)
		var echo [5]byte
		io.WriteString(res.Body.(io.Writer), "hello")
		if _, err := io.ReadFull(res.Body, echo[:]); err != nil {
			t.Errorf("the new protocol: %v", err)
		}
	})
}

func TestDirectHeaderTimeoutIsNotOfTheNewProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := sticky.NewDirectTransport(&sticky.DirectOptions{HeaderTimeout: time.Second, Dial: dialing(func(c net.Conn) {
			takeRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			time.Sleep(time.Hour)
			io.WriteString(c, "hello")
		})})
		res, err := rt.RoundTrip(directRequest(t, "GET", "http://node", nil))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		res.Body.Close()
	})
}
