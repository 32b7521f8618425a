package sticky_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// patience is for what will happen, on however loaded a machine.
const patience = 20 * time.Second

// transports are held against the same tests: what http.Transport does is what
// DirectTransport has to do.
var transports = []struct {
	name string
	make func(o sticky.DirectOptions) http.RoundTripper
}{
	{"direct", func(o sticky.DirectOptions) http.RoundTripper { return sticky.NewDirectTransport(&o) }},
	{"http.Transport", func(o sticky.DirectOptions) http.RoundTripper {
		expect := o.ContinueTimeout
		if expect == 0 {
			expect = time.Second
		}
		return &http.Transport{DialContext: o.Dial, TLSClientConfig: o.TLS, DisableCompression: true,
			ResponseHeaderTimeout: o.HeaderTimeout, ExpectContinueTimeout: expect, IdleConnTimeout: o.IdleTimeout,
			MaxIdleConnsPerHost: cmp.Or(o.MaxIdle, 256), MaxResponseHeaderBytes: o.MaxHeaderBytes}
	}},
}

// both runs a test with either transport.
func both(t *testing.T, o sticky.DirectOptions, f func(t *testing.T, rt http.RoundTripper)) {
	t.Helper()
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			rt := tr.make(o)
			t.Cleanup(rt.(interface{ CloseIdleConnections() }).CloseIdleConnections)
			f(t, rt)
		})
	}
}

// direct runs one with DirectTransport, where it promises more.
func direct(t *testing.T, o *sticky.DirectOptions) *sticky.DirectTransport {
	rt := sticky.NewDirectTransport(o)
	t.Cleanup(rt.CloseIdleConnections)
	return rt
}

// rawNode is a server of one's own making, under HTTP: serve has each connection,
// and how many came before it.
type rawNode struct {
	url string

	mu    sync.Mutex
	conns int
}

func newRawNode(t *testing.T, serve func(n int, c net.Conn, r *bufio.Reader)) *rawNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rawNode{url: "http://" + l.Addr().String()}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			n := s.conns
			s.conns++
			s.mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
	return s
}

func (s *rawNode) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// answering is a node that reads requests to their ends and writes the same to
// each.
func answering(t *testing.T, response string) *rawNode {
	return newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for takeRequest(r) {
			io.WriteString(c, response)
			if closesAfter(response) {
				return
			}
		}
	})
}

// closesAfter tells whether a node that sent this closes the connection.
func closesAfter(response string) bool {
	return strings.HasPrefix(response, "HTTP/1.0") && !strings.Contains(response, "keep-alive") ||
		strings.Contains(response, "Connection: close") || strings.Contains(response, "X-Then: close")
}

// takeRequest reads one request.
func takeRequest(r *bufio.Reader) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// awaitEnd waits for the other side to close.
func awaitEnd(c net.Conn) { io.Copy(io.Discard, c) }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func directRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// directResult is what came of a request, body and all.
type directResult struct {
	res  *http.Response
	body string
	err  error // of RoundTrip or of the body
}

func sendDirect(rt http.RoundTripper, req *http.Request) directResult {
	res, err := rt.RoundTrip(req)
	if err != nil {
		return directResult{err: err}
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	return directResult{res, string(b), err}
}

// What makes no sense below zero is the default there.
func TestDirectNegativeOptions(t *testing.T) {
	s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
		for takeRequest(r) {
			io.WriteString(c, okHello)
		}
	})
	rt := direct(t, &sticky.DirectOptions{IdleTimeout: -1, MaxHeaderBytes: -1})
	for range 2 {
		if got := sendDirect(rt, directRequest(t, "GET", s.url, nil)); got.err != nil || got.body != "hello" {
			t.Errorf("%+v", got)
		}
	}
	if n := s.accepted(); n != 1 {
		t.Errorf("%d connections; want that one is kept", n)
	}
}

func TestDirectResponses(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	for _, tt := range []struct {
		name, method string
		response     string
		status       int
		body         string
		trailer      string // T's value
		kept         bool   // the connection serves the next request
		length       int64  // Content-Length, if not that of the body
		fails        bool   // RoundTrip or the reading of the body
		err          error
		why          string
	}{
		{name: "length", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", kept: true},
		{name: "nothing", response: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, kept: true},
		{name: "long", response: "HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n" + long, status: 200, body: long, kept: true, why: "the limit of the header is none of the body"},
		{name: "chunked", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", status: 200, body: "hello", kept: true, length: -1},
		{name: "trailer", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n5\r\nhello\r\n0\r\nT: end\r\n\r\n", status: 200, body: "hello", trailer: "end", kept: true, length: -1},
		{name: "trailer not declared", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: end\r\n\r\n", status: 200, body: "hello", trailer: "end", kept: true, length: -1},
		{name: "HEAD", method: "HEAD", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, length: 5, kept: true},
		{name: "HEAD chunked", method: "HEAD", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200, length: -1, kept: true},
		{name: "204", response: "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", status: 204, kept: true, why: "has no body, whatever it says"},
		{name: "304", response: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", status: 304, kept: true, why: "the length is that of the 200"},
		{name: "close", response: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello"},
		{name: "1.0", response: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello"},
		{name: "1.0 keep-alive", response: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", kept: true},
		{name: "to the end", response: "HTTP/1.1 200 OK\r\nX-Then: close\r\n\r\nhello", status: 200, body: "hello", length: -1},
		{name: "100 unasked", response: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", kept: true},
		{name: "103", response: "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", kept: true},
		{name: "length twice", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", kept: true},
		{name: "chunked wins", response: "HTTP/1.1 200 OK\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", status: 200, body: "hello", length: -1, kept: true, why: "RFC 9112, section 6.3"},
		{name: "too much", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status: 200, body: "hello", why: "the rest must be nobody's response"},
		{name: "too much after nothing", response: "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status: 204},
		{name: "too short", response: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Then: close\r\n\r\nhello", fails: true, err: io.ErrUnexpectedEOF},
		{name: "chunk too short", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Then: close\r\n\r\n9\r\nhello", fails: true, err: io.ErrUnexpectedEOF},
		{name: "no last chunk", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Then: close\r\n\r\n5\r\nhello\r\n", fails: true, err: io.ErrUnexpectedEOF},
		{name: "chunk malformed", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", fails: true},
		{name: "header cut", response: "HTTP/1.1 200 OK\r\nX-Then: close\r\n", fails: true, err: io.ErrUnexpectedEOF},
		{name: "no HTTP", response: "SSH-2.0-OpenSSH_9.2\r\n\r\n", fails: true},
		{name: "status no number", response: "HTTP/1.1 2x0 OK\r\n\r\n", fails: true},
		{name: "field without colon", response: "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", fails: true},
		{name: "two lengths", response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", fails: true},
		{name: "length signed", response: "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", fails: true},
		{name: "unknown encoding", response: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", fails: true},
		{name: "header too long", response: "HTTP/1.1 200 OK\r\nX: " + long + "\r\nContent-Length: 0\r\n\r\n", fails: true},
		{name: "informational for ever", response: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+long[:9000]+"\r\n\r\n", 200), fails: true},
		{name: "connection closed", response: "", fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{MaxHeaderBytes: 1 << 20}, func(t *testing.T, rt http.RoundTripper) {
				if _, std := rt.(*http.Transport); std && strings.HasPrefix(tt.name, "too much") {
					t.Skip("http.Transport takes the rest for the next response if it comes at the wrong moment")
				}
				s := answering(t, tt.response)
				if tt.response == "" {
					s = newRawNode(t, func(_ int, _ net.Conn, r *bufio.Reader) { takeRequest(r) })
				}
				for range 2 {
					got := sendDirect(rt, directRequest(t, tt.method, s.url, nil))
					if tt.fails {
						if got.err == nil || !errors.Is(got.err, tt.err) && tt.err != nil {
							t.Fatalf("error %v, want %v", got.err, tt.err)
						}
						continue
					}
					if got.err != nil || got.res.StatusCode != tt.status || got.body != tt.body {
						t.Fatalf("%+v, want %d %.20q", got, tt.status, tt.body)
					}
					length := tt.length
					if length == 0 {
						length = int64(len(tt.body))
					}
					if got.res.ContentLength != length || got.res.Trailer.Get("T") != tt.trailer {
						t.Errorf("length %d, trailer %v; want %d, %q (%s)", got.res.ContentLength, got.res.Trailer, length, tt.trailer, tt.why)
					}
				}
				want := 2
				if tt.kept {
					want = 1
				}
				if n := s.accepted(); n != want {
					t.Errorf("%d connections, want %d (%s)", n, want, tt.why)
				}
			})
		})
	}
}

func TestDirectRefusesInformationalResponsesWithoutEnd(t *testing.T) {
	s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
		takeRequest(r)
		for {
			if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
				return
			}
		}
	})
	hints := 0
	req := directRequest(t, "GET", s.url, nil)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil },
	}))
	if got := sendDirect(direct(t, nil), req); got.err == nil || hints < 100 || hints > 200 {
		t.Errorf("%v after %d", got.err, hints)
	}
}

func TestDirectRefusesAStatusBelow100(t *testing.T) {
	s := answering(t, "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n")
	if got := sendDirect(direct(t, nil), directRequest(t, "GET", s.url, nil)); got.err == nil {
		t.Error("ReverseProxy panics when it passes this on")
	}
}

func TestDirectRefusesRequests(t *testing.T) {
	s := answering(t, "HTTP/1.1 204 No Content\r\n\r\n")
	for _, tt := range []struct {
		name string
		edit func(*http.Request)
	}{
		{"no URL", func(r *http.Request) { r.URL = nil }},
		{"no header", func(r *http.Request) { r.Header = nil }},
		{"scheme", func(r *http.Request) { r.URL.Scheme = "ftp" }},
		{"no host", func(r *http.Request) { r.URL.Host = "" }},
		{"method", func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX: y" }},
		{"field name", func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"v"} }},
		{"empty field name", func(r *http.Request) { r.Header[""] = []string{"v"} }},
		{"field value", func(r *http.Request) { r.Header["X"] = []string{"v\r\nContent-Length: 5"} }},
		{"trailer", func(r *http.Request) { r.Trailer = http.Header{"X y": nil} }},
		{"control character in the path", func(r *http.Request) { r.URL.Opaque = "/a\r\nb" }},
		{"length without body", func(r *http.Request) { r.Body, r.ContentLength = nil, 5 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
				body := newSpyBody("hello")
				req := directRequest(t, "POST", s.url, body)
				tt.edit(req)
				if got := sendDirect(rt, req); got.err == nil {
					t.Error("was sent")
				}
				if req.Body != nil {
					body.closedSoon(t)
				}
			})
		})
	}
}

// spyBody is a request's, of unknown length, that tells what was done with it.
type spyBody struct {
	io.Reader
	mu     sync.Mutex
	reads  int
	closes int
}

func newSpyBody(s string) *spyBody { return &spyBody{Reader: strings.NewReader(s)} }

func (b *spyBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.reads++
	b.mu.Unlock()
	return b.Reader.Read(p)
}

func (b *spyBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closes++
	return nil
}

func (b *spyBody) wasRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads > 0
}

func (b *spyBody) closedSoon(t *testing.T) {
	t.Helper()
	eventually(t, "the request's body was not closed", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.closes > 0
	})
}

// endless gives bytes for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout() && errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrNotExist)
}
