package sticky_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

func TestDirectRequestBodies(t *testing.T) {
	got := make(chan *http.Request, 1)
	serve := func(_ int, c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			b, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			req.Body = io.NopCloser(bytes.NewReader(b))
			got <- req
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		}
	}
	long := strings.Repeat("0123456789abcdef", 1<<16)
	for _, tt := range []struct {
		name    string
		body    func() io.Reader
		edit    func(*http.Request)
		want    string
		length  int64
		trailer string
	}{
		{name: "none", body: func() io.Reader { return nil }},
		{name: "NoBody", body: func() io.Reader { return http.NoBody }},
		{name: "length", body: func() io.Reader { return strings.NewReader("hello") }, want: "hello", length: 5},
		{name: "chunked", body: func() io.Reader { return newSpyBody("hello") }, want: "hello", length: -1},
		{name: "long", body: func() io.Reader { return strings.NewReader(long) }, want: long, length: int64(len(long))},
		{name: "long, chunked", body: func() io.Reader { return newSpyBody(long) }, want: long, length: -1},
		{name: "trailer", body: func() io.Reader { return newSpyBody("hello") }, want: "hello", length: -1, trailer: "end",
			edit: func(r *http.Request) { r.Trailer = http.Header{"T": {"end"}} }},
		{name: "trailer after the body", body: func() io.Reader { return nil }, want: "hello", length: -1, trailer: "end",
			edit: func(r *http.Request) {
				r.Trailer = http.Header{"T": nil}
				r.ContentLength = -1
				r.Body = io.NopCloser(io.MultiReader(strings.NewReader("hello"), readFunc(func([]byte) (int, error) {
					r.Trailer.Set("T", "end")
					return 0, io.EOF
				})))
			}},
		{name: "long header", body: func() io.Reader { return nil }, edit: func(r *http.Request) { r.Header.Set("X", long[:200_000]) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
				s := newRawNode(t, serve)
				for range 2 {
					req := directRequest(t, "POST", s.url, tt.body())
					if tt.edit != nil {
						tt.edit(req)
					}
					if r := sendDirect(rt, req); r.err != nil || r.body != "hello" {
						t.Fatal(r.err)
					}
					in := <-got
					b, _ := io.ReadAll(in.Body)
					if string(b) != tt.want || in.ContentLength != tt.length || in.Trailer.Get("T") != tt.trailer {
						t.Errorf("got %.20q, %d, %v", b, in.ContentLength, in.Trailer)
					}
					if in.Header.Get("X") != req.Header.Get("X") {
						t.Error("a header did not arrive")
					}
				}
				if n := s.accepted(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A node may answer long before it has been told everything.
func TestDirectEarlyResponse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reads bool // on, after its answer
	}{
		{"and goes on reading", true},
		{"and reads no more", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
				gone, heard := make(chan struct{}, 1), make(chan struct{})
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nhello")
					if !tt.reads {
						<-heard
					}
					awaitEnd(c)
					gone <- struct{}{}
				})
				b := newSpyBody("")
				b.Reader = endless{}
				got := sendDirect(rt, directRequest(t, "POST", s.url, b))
				if got.err != nil || got.res.StatusCode != 413 || got.body != "hello" {
					t.Errorf("%+v", got)
				}
				close(heard)
				awaitSignal(t, "the end of the connection, on which half a request lies", gone)
				b.closedSoon(t)
			})
		})
	}
}

// A node that refuses a large request by answering and hanging up is heard if
// its answer arrived at all.
func TestDirectRefusedAndClosed(t *testing.T) {
	s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		c.(*net.TCPConn).CloseWrite()
		awaitEnd(c)
	})
	b := newSpyBody("")
	b.Reader = endless{}
	if got := sendDirect(direct(t, nil), directRequest(t, "POST", s.url, b)); got.err != nil || got.res.StatusCode != 413 {
		t.Errorf("%+v", got)
	}
	b.closedSoon(t)
}

func TestDirectRequestBodyFails(t *testing.T) {
	broken := errors.New("the client hung up")
	for _, tt := range []struct {
		name   string
		body   io.Reader
		length int64
		err    error
	}{
		{"at once", readFunc(func([]byte) (int, error) { return 0, broken }), -1, broken},
		{"later", io.MultiReader(strings.NewReader("hello"), readFunc(func([]byte) (int, error) { return 0, broken })), 100_000, broken},
		{"too short", strings.NewReader("hello"), 100, nil},
		{"too long", strings.NewReader("hello"), 3, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
				gone := make(chan struct{}, 1)
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) { awaitEnd(c); gone <- struct{}{} })
				b := newSpyBody("")
				if seek, ok := tt.body.(io.Seeker); ok {
					seek.Seek(0, io.SeekStart)
				}
				b.Reader = tt.body
				req := directRequest(t, "POST", s.url, b)
				req.ContentLength = tt.length
				if got := sendDirect(rt, req); got.err == nil || tt.err != nil && !errors.Is(got.err, tt.err) {
					t.Errorf("error %v", got.err)
				}
				b.closedSoon(t)
				awaitSignal(t, "the end of the connection", gone)
			})
		})
	}
}

func TestDirectRequestBodyIsClosedWhenDialFails(t *testing.T) {
	refused := errors.New("refused")
	both(t, sticky.DirectOptions{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, refused }}, func(t *testing.T, rt http.RoundTripper) {
		b := newSpyBody("hello")
		got := sendDirect(rt, directRequest(t, "POST", "http://node.invalid", b))
		if !errors.Is(got.err, refused) {
			t.Error(got.err)
		}
		if _, ok := rt.(*sticky.DirectTransport); ok && !errors.Is(got.err, sticky.ErrNotSent) {
			t.Error("does not say that nothing was sent")
		}
		b.closedSoon(t)
		if b.wasRead() {
			t.Error("the body was read")
		}
	})
}

func TestDirectExpectContinue(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		serve   func(c net.Conn, r *bufio.Reader) // after the header
		status  int
		read    bool // the body
		conns   int  // of two requests
		only    bool // DirectTransport promises more
	}{
		{name: "wanted", timeout: time.Hour, status: 200, read: true, conns: 1, serve: func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			io.CopyN(io.Discard, r, 5)
			io.WriteString(c, ok)
		}},
		{name: "twice", timeout: time.Hour, status: 200, read: true, conns: 1, serve: func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
			io.CopyN(io.Discard, r, 5)
			io.WriteString(c, ok)
		}},
		{name: "no word", timeout: 20 * time.Millisecond, status: 200, read: true, conns: 1, serve: func(c net.Conn, r *bufio.Reader) {
			io.CopyN(io.Discard, r, 5)
			io.WriteString(c, ok)
		}},
		{name: "refused", timeout: time.Hour, status: 417, conns: 2, serve: func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")
			awaitEnd(c)
		}},
		{name: "refused, no close", timeout: time.Hour, status: 417, conns: 2, only: true, serve: func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 5\r\n\r\nhello")
			awaitEnd(c)
		}},
		{name: "refused without a word", timeout: time.Hour, status: 204, conns: 2, only: true, serve: func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			awaitEnd(c)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{ContinueTimeout: tt.timeout}, func(t *testing.T, rt http.RoundTripper) {
				if _, std := rt.(*http.Transport); std && tt.only {
					t.Skip("it sends the body, so as to keep the connection")
				}
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					for {
						if _, err := http.ReadRequest(r); err != nil {
							return
						}
						tt.serve(c, r)
					}
				})
				for range 2 {
					b := newSpyBody("hello")
					req := directRequest(t, "POST", s.url, b)
					req.ContentLength = 5
					req.Header.Set("Expect", "100-continue")
					got := sendDirect(rt, req)
					if got.err != nil || got.res.StatusCode != tt.status {
						t.Fatalf("%+v", got)
					}
					b.closedSoon(t)
					if b.wasRead() != tt.read {
						t.Errorf("body read: %v", b.wasRead())
					}
				}
				if n := s.accepted(); n != tt.conns {
					t.Errorf("%d connections, want %d", n, tt.conns)
				}
			})
		})
	}
}

// A request that failed has let go of what its caller may now change.
func TestDirectLetsGoOfTheRequest(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := newRawNode(t, func(n int, c net.Conn, r *bufio.Reader) {
			if n%2 == 0 {
				r.ReadByte() // and hang up
				return
			}
			takeRequest(r)
		})
		for i := range 20 {
			b := newSpyBody("")
			b.Reader = io.LimitReader(endless{}, 1<<20)
			req := directRequest(t, "POST", s.url, b)
			req.Trailer = http.Header{"T": nil}
			if got := sendDirect(rt, req); got.err == nil {
				t.Fatal("answered")
			}
			req.Header.Set("X", fmt.Sprint(i)) // with -race
			req.Trailer.Set("T", "late")
		}
	})
}
