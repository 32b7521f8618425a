package sticky_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/sticky"
)

// echo answers with the head that the node got.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s\nHost: %s\n", r.Method, r.RequestURI, r.Host)
	r.Header.Write(w)
})

func do(t testing.TB, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func newRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the node gets of the request's head.
func TestRequestHead(t *testing.T) {
	for _, tt := range []struct {
		why      string
		o        sticky.Options
		head     string
		has, not []string
	}{
		{"as it came", sticky.Options{}, "GET /a%2Fb//c?x=1;y=%zz&&q HTTP/1.1\r\nHost: www.example:81\r\n",
			[]string{"GET /a%2Fb//c?x=1;y=%zz&&q\n", "Host: www.example:81\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: www.example:81\r\n", "X-Forwarded-Proto: http\r\n"},
			[]string{"User-Agent:", "Accept-Encoding:"}},
		{"absolute form", sticky.Options{}, "GET http://elsewhere.example/x HTTP/1.1\r\nHost: www.example\r\n", []string{"GET /x\n", "Host: elsewhere.example\n"}, nil},
		{"hop by hop", sticky.Options{}, "GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip\r\nX-End: 1\r\n",
			[]string{"X-End: 1"}, []string{"Keep-Alive", "X-Hop", "Proxy-", "Te:"}},
		{"Connection strips nothing that is for everybody", sticky.Options{},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: Cookie, authorization, X-Forwarded-For, X-Forwarded-Proto, X-Real-Ip, Content-Type\r\nCookie: affinity=x; session=y\r\nAuthorization: z\r\nContent-Type: a/b\r\nX-Forwarded-Proto: https\r\n",
			[]string{"Cookie: session=y\r\n", "Authorization: z\r\n", "Content-Type: a/b\r\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n"}, []string{"affinity"}},
		{"forged forwarding fields", sticky.Options{},
			"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 6\r\nX-Forwarded-Prefix: /6\r\n",
			[]string{"X-Forwarded-For: 127.0.0.1\r\n", "X-Forwarded-Host: h\r\n", "X-Forwarded-Proto: http\r\n"}, []string{"6", "7.7", "evil", "Forwarded: f"}},
		{"forged forwarding fields with an underscore", sticky.Options{},
			"GET / HTTP/1.1\r\nHost: h\r\nX_Forwarded_For: 6.6.6.6\r\nx_forwarded-host: 6\r\nX-FORWARDED_PROTO: 6\r\nX_Real_IP: 6\r\nX_Other: 1\r\nX_Forwarded_Nothing: 2\r\n",
			[]string{"X-Forwarded-For: 127.0.0.1\r\n", "X_other: 1\r\n", "X_forwarded_nothing: 2\r\n"}, []string{"6"}},
		{"and through a trusted proxy", sticky.Options{Trusted: prefixes("127.0.0.0/8")},
			"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 203.0.113.9\r\nX_Forwarded_For: 6.6.6.6\r\nX_Forwarded_Proto: 6\r\n",
			[]string{"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\n"}, []string{"6"}},
		{"of a trusted proxy", sticky.Options{Trusted: prefixes("127.0.0.0/8")},
			"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.0.0.3\r\nX-Forwarded-Host: www\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nForwarded: for=6.6.6.6\r\n",
			[]string{"X-Forwarded-For: 203.0.113.9, 127.0.0.3, 127.0.0.1\r\n", "X-Forwarded-Host: www\r\n", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Port: 443\r\n"}, []string{"6.6"}},
		{"an agent and encodings are passed on", sticky.Options{}, "GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: u\r\nAccept-Encoding: br\r\n", []string{"User-Agent: u\r\n", "Accept-Encoding: br\r\n"}, nil},
	} {
		tt.o.Health = unchecked
		p := newProxy(t, []sticky.Node{real(t, "a", echo)}, tt.o)
		got := raw(t, front(t, p).Listener.Addr().String(), tt.head+"Connection: close\r\n\r\n")
		_, body, _ := strings.Cut(got, "\r\n\r\n")
		for _, s := range tt.has {
			if !strings.Contains(body, s) {
				t.Errorf("%s: the node does not get %q:\n%s", tt.why, s, body)
			}
		}
		for _, s := range tt.not {
			if strings.Contains(body, s) {
				t.Errorf("%s: the node gets %q:\n%s", tt.why, s, body)
			}
		}
	}
}

// What the client gets of the answer's head, whatever the node names.
func TestResponseHead(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, buf, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			buf.WriteString("HTTP/1.1 200 OK\r\nConnection: Set-Cookie, X-Hop, Cache-Control\r\nSet-Cookie: session=1\r\nSet-Cookie: b=2\r\nCache-Control: private\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nContent-Length: 2\r\n\r\nok")
			buf.Flush()
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		res, body := do(t, http.DefaultClient, newRequest(t, "GET", front(t, p).URL, nil))
		if got := len(res.Cookies()); body != "ok" || got != 3 || res.Header.Get("Cache-Control") != "private" {
			t.Errorf("%v; want both of the node's cookies and the balancer's", res.Header)
		}
		if res.Header["X-Hop"] != nil || res.Header["Keep-Alive"] != nil {
			t.Errorf("%v; want no hop-by-hop fields", res.Header)
		}
	})
}

func TestEarlyHints(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</x>")
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "1")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Connection")
			io.WriteString(w, "ok")
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		var hints []http.Header
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == 103 {
				hints = append(hints, http.Header(h).Clone())
			}
			return nil
		}})
		res, body := do(t, http.DefaultClient, newRequest(t, "GET", front(t, p).URL, nil).WithContext(ctx))
		if len(hints) != 1 || hints[0].Get("Link") != "</x>" || hints[0]["X-Hop"] != nil || hints[0]["Set-Cookie"] != nil {
			t.Errorf("hints are %v; want the Link alone", hints)
		}
		if len(res.Cookies()) != 1 || body != "ok" {
			t.Errorf("the answer after them: %v %s; want the affinity cookie", res.Header, body)
		}
	})
}

func TestTrailers(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		var got http.Header
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got = r.Trailer.Clone()
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "ok")
			w.Header().Set("X-Sum", "answer")
			w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		r := newRequest(t, "POST", front(t, p).URL, struct{ io.Reader }{strings.NewReader("body")})
		r.Trailer = http.Header{"X-Sum": {"request"}}
		res, _ := do(t, http.DefaultClient, r)
		if got.Get("X-Sum") != "request" {
			t.Errorf("the node's trailers are %v", got)
		}
		if res.Trailer.Get("X-Sum") != "answer" || res.Trailer.Get("X-Late") != "unannounced" {
			t.Errorf("the client's trailers are %v", res.Trailer)
		}
	})
}

// Both bodies pass while they are written: each word waits for the other's.
func TestBodiesStream(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			in := bufio.NewReader(r.Body)
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				fmt.Fprint(w, "got ", line)
				rc.Flush()
			}
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		duplex := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex() // HTTP/1 in front asks for it
			p.ServeHTTP(w, r)
		})
		body, write := io.Pipe()
		go io.WriteString(write, "one\n")
		res, err := http.DefaultClient.Do(newRequest(t, "POST", front(t, duplex).URL, body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		out := bufio.NewReader(res.Body)
		for _, word := range []string{"one", "two", "three"} {
			if line, err := out.ReadString('\n'); line != "got "+word+"\n" {
				t.Fatalf("%q, %v; want %s", line, err, word)
			}
			switch word {
			case "one":
				io.WriteString(write, "two\n")
			case "two":
				io.WriteString(write, "three\n")
			}
		}
		write.Close()
		if rest, err := io.ReadAll(out); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

func TestServerSentEvents(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		next := make(chan struct{})
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			for range next {
				io.WriteString(w, "data: x\n\n")
				http.NewResponseController(w).Flush()
			}
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		r := newRequest(t, "GET", front(t, p).URL, nil)
		r.Header.Set("Accept", "text/event-stream")
		next2 := sync.OnceFunc(func() { close(next) })
		defer next2()
		go func() { next <- struct{}{} }()
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		out := bufio.NewReader(res.Body)
		for i := range 3 { // each is asked for only when the one before has come
			if i > 0 {
				next <- struct{}{}
			}
			if line, err := out.ReadString('\n'); line != "data: x\n" {
				t.Fatalf("%q, %v", line, err)
			}
			out.ReadString('\n')
		}
		if s := p.Status(); s.Nodes[0].Upgraded != 1 {
			t.Errorf("%+v; want one stream", s.Nodes[0])
		}
	})
}

// An event stream that would go on for ever ends when its node is drained, and
// at Shutdown, whether or not the client had said that it wants one.
func TestStreamsAreClosed(t *testing.T) {
	for _, accept := range []string{"text/event-stream", "*/*"} {
		for what, end := range map[string]func(context.Context, *sticky.Proxy) error{
			"drain":    func(ctx context.Context, p *sticky.Proxy) error { return p.Drain(ctx, "a", sticky.Move) },
			"shutdown": func(ctx context.Context, p *sticky.Proxy) error { return p.Shutdown(ctx) },
		} {
			eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
				gone := make(chan struct{})
				node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "Text/Event-Stream; charset=utf-8")
					io.WriteString(w, "data: x\n\n")
					http.NewResponseController(w).Flush()
					<-r.Context().Done()
					close(gone)
				}))
				o := sticky.Options{Health: unchecked, CloseOver: 20 * time.Millisecond}
				way(t, &o)
				p := newProxy(t, []sticky.Node{node}, o)
				r := newRequest(t, "GET", front(t, p).URL, nil)
				r.Header.Set("Accept", accept)
				res, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				out := bufio.NewReader(res.Body)
				if line, err := out.ReadString('\n'); line != "data: x\n" {
					t.Fatalf("%q, %v", line, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := end(ctx, p); err != nil {
					t.Errorf("%s, Accept: %s: %v", what, accept, err)
				}
				if rest, err := io.ReadAll(out); err == nil || string(rest) != "\n" {
					t.Errorf("%s, Accept: %s: %q, %v; want that the stream breaks off", what, accept, rest, err)
				}
				awaitSignal(t, "the end of the stream on the node", gone)
				if s := p.Status(); s.InFlight != 0 || s.Nodes[0].Upgraded != 0 {
					t.Errorf("%s, Accept: %s: %+v", what, accept, s)
				}
			})
		}
	}
}

// Half an answer is not taken for a whole one.
func TestNodeDiesInTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		why  string
		head string
	}{
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"by length", "Content-Length: 1000\r\n\r\nhello"},
	} {
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, buf, _ := http.NewResponseController(w).Hijack()
			fmt.Fprint(buf, "HTTP/1.1 200 OK\r\n", tt.head)
			buf.Flush()
			c.Close()
		}))
		p := newProxy(t, []sticky.Node{node}, sticky.Options{Health: unchecked})
		for _, h2 := range []bool{false, true} {
			s := httptest.NewUnstartedServer(p)
			s.Config.ErrorLog = quietLog
			s.EnableHTTP2 = h2
			s.StartTLS()
			res, err := s.Client().Get(s.URL)
			if err == nil {
				var b []byte
				b, err = io.ReadAll(res.Body)
				if string(b) != "hello" && len(b) > 0 {
					t.Errorf("%s, HTTP/2 %v: %q", tt.why, h2, b)
				}
				res.Body.Close()
			}
			if err == nil {
				t.Errorf("%s, HTTP/2 %v: the client takes half an answer for a whole one", tt.why, h2)
			}
			s.Close()
		}
		if s := p.Status(); s.InFlight != 0 || s.Nodes[0].InFlight != 0 {
			t.Errorf("%s: %d in flight, %d on the node", tt.why, s.InFlight, s.Nodes[0].InFlight)
		}
	}
}

func TestHTTP2InFront(t *testing.T) {
	node := real(t, "a", echo)
	p := newProxy(t, []sticky.Node{node}, sticky.Options{Health: unchecked})
	s := httptest.NewUnstartedServer(p)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	r := newRequest(t, "GET", s.URL+"/x", nil)
	r.Host = "www.example"
	r.Header["Cookie"] = []string{"a=1; __Host-affinity=x", "b=2"}
	res, body := do(t, s.Client(), r)
	set := res.Header.Get("Set-Cookie")
	if res.ProtoMajor != 2 || !strings.HasPrefix(set, "__Host-affinity=") || !strings.Contains(set, "; Secure") {
		t.Errorf("%s, %q", res.Proto, set)
	}
	for _, want := range []string{"GET /x\nHost: www.example\n", "Cookie: a=1; b=2\r\n", "X-Forwarded-Proto: https\r\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("the node does not get %q:\n%s", want, body)
		}
	}
}

// Requests that servers could understand differently do not reach a node, or
// reach it in one way only, and nothing that follows is taken for a request of
// its own.
func TestSmuggling(t *testing.T) {
	var mu sync.Mutex
	var got []string
	node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			got = append(got, fmt.Sprintf("%s %s %q %q %q", r.Method, r.URL.Path, b, r.TransferEncoding, r.Header["Content-Length"]))
		}
	}))
	p := newProxy(t, []sticky.Node{node}, sticky.Options{Health: unchecked})
	s := httptest.NewUnstartedServer(p)
	s.Config.ErrorLog = quietLog
	s.Config.MaxHeaderBytes = 16 << 10
	s.Start()
	t.Cleanup(s.Close)
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, tt := range []struct {
		why, text string
		status    string   // of the first answer
		node      []string // what it gets
	}{
		{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n" + smuggled, "400", nil},
		{"two lengths in a list", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 35\r\n\r\n" + smuggled, "400", nil},
		{"a signed length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n" + smuggled, "400", nil},
		{"a negative length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n" + smuggled, "400", nil},
		{"a length in hex", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x0\r\n\r\n" + smuggled, "400", nil},
		{"an unknown coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, "501", nil},
		{"two codings", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled, "501", nil},
		{"a list of codings", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + smuggled, "501", nil},
		{"a coding behind a vertical tab", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + smuggled, "4", nil},
		{"white space before the colon", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled, "400", nil},
		{"white space before the first field", "POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: h\r\n\r\n0\r\n\r\n" + smuggled, "400", nil},
		{"no name", "GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n" + smuggled, "400", nil},
		{"no colon", "GET / HTTP/1.1\r\nHost: h\r\nx\r\n\r\n" + smuggled, "400", nil},
		{"NUL in a field", "GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n" + smuggled, "400", nil},
		{"CR in a field", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n" + smuggled, "400", nil},
		{"no host", "GET / HTTP/1.1\r\n\r\n" + smuggled, "400", nil},
		{"two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n" + smuggled, "400", nil},
		{"HTTP/1.2 in another case", "GET / http/1.1\r\nHost: h\r\n\r\n" + smuggled, "400", nil},
		{"HTTP/3", "GET / HTTP/3.0\r\nHost: h\r\n\r\n" + smuggled, "505", nil},
		{"a bad size of a chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n" + smuggled, "400", nil},
		{"a huge size of a chunk", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" + smuggled, "400", nil},
		{"a chunk longer than its size", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n" + smuggled, "400", nil},
		{"an upgrade to nothing", "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: \xff\r\n\r\n" + smuggled, "400", nil},
		{"CONNECT", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n" + smuggled, "405", nil},
		{"a target without a slash", "GET http:foo HTTP/1.1\r\nHost: h\r\n\r\n" + smuggled, "400", nil},
		{"a target that continues the host", "GET http:@evil/ HTTP/1.1\r\nHost: h\r\n\r\n" + smuggled, "400", nil},
		{"a head that is too large", "GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "431", nil},
		{"many fields", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 10_000) + "\r\n", "431", nil},
		// RFC 9112 lets a server obey the coding alone (6.3) and unfold lines
		// (5.2), as net/http does. The node gets one framing, and no folds.
		{"length and coding", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n" + smuggled, "200", []string{`POST / "ab" ["chunked"] []`}},
		{"coding and length, the other request in the body", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n23\r\n" + smuggled + "\r\n0\r\n\r\n", "200", []string{fmt.Sprintf(`POST / %q ["chunked"] []`, smuggled)}},
		{"another request after a chunked one", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "200", []string{`POST / "" ["chunked"] []`}},
		{"length and coding in HTTP/1.0, where only the length counts", "POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "200", []string{`POST / "0\r\n\r\n" [] ["5"]`}},
		{"another request after one of HTTP/1.0", "GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n" + smuggled, "200", []string{`GET / "" [] []`}},
		{"a folded length", "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: a\r\n Content-Length: 35\r\n\r\n", "200", []string{`POST / "" [] ["0"]`}},
	} {
		mu.Lock()
		got = nil
		mu.Unlock()
		answer := raw(t, s.Listener.Addr().String(), tt.text)
		if _, status, _ := strings.Cut(answer, " "); !strings.HasPrefix(status, tt.status) {
			t.Errorf("%s: %.80q; want %s", tt.why, answer, tt.status)
		}
		mu.Lock()
		if !slices.Equal(got, tt.node) {
			t.Errorf("%s: the node gets %q; want %q", tt.why, got, tt.node)
		}
		mu.Unlock()
	}
}

// dialUpgrade opens a connection that is upgraded to "echo".
func dialUpgrade(t testing.TB, addr, extra string) (net.Conn, *bufio.Reader, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n%s\r\n", extra)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, r, res
}

// upgrades echoes lines on upgraded connections.
var upgrades = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		io.WriteString(w, "plain")
		return
	}
	c, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	for {
		line, err := buf.ReadString('\n')
		if err != nil {
			return
		}
		io.WriteString(c, line)
	}
})

func expectEcho(t *testing.T, c net.Conn, r *bufio.Reader, word string) {
	t.Helper()
	io.WriteString(c, word+"\n")
	if line, err := r.ReadString('\n'); line != word+"\n" {
		t.Errorf("%q, %v; want %s", line, err, word)
	}
}

func expectClosed(t *testing.T, r *bufio.Reader) {
	t.Helper()
	var timeout net.Error
	if _, err := r.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("%v; want that the connection is closed", err)
	}
}

func TestUpgrade(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		o := sticky.Options{Health: unchecked, CloseOver: 50 * time.Millisecond, Keys: [][]byte{key(1)}}
		way(t, &o)
		p := newProxy(t, []sticky.Node{real(t, "a", upgrades), real(t, "b", upgrades)}, o)
		s := front(t, p)
		c, r, res := dialUpgrade(t, s.Listener.Addr().String(), "Cookie: affinity="+sticky.CookieValue(key(1), "a")+"\r\n")
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" {
			t.Fatalf("%v", res)
		}
		expectEcho(t, c, r, "hello")
		if st := stateOf(t, p, "a"); st.InFlight != 1 || st.Upgraded != 1 {
			t.Errorf("%+v; want one upgraded connection in flight", st)
		}
		_, _, res = dialUpgrade(t, s.Listener.Addr().String(), "")
		if !strings.HasPrefix(res.Header.Get("Set-Cookie"), "affinity=") {
			t.Errorf("a new user's upgrade sets no cookie: %v", res.Header)
		}

		// A drain ends it, and then returns.
		if err := p.Drain(t.Context(), "a", sticky.Move); err != nil {
			t.Fatal(err)
		}
		if st := stateOf(t, p, "a"); st.InFlight != 0 || st.Upgraded != 0 {
			t.Errorf("%+v after Drain", st)
		}
		expectClosed(t, r)
		_, _, res = dialUpgrade(t, s.Listener.Addr().String(), "Cookie: affinity="+sticky.CookieValue(key(1), "a")+"\r\n")
		if res.StatusCode != 101 || !strings.Contains(res.Header.Get("Set-Cookie"), sticky.CookieValue(key(1), "b")) {
			t.Errorf("upgraded again: %v; want b's cookie", res)
		}
	})
}

func TestShutdownClosesUpgradedConnections(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		o := sticky.Options{Health: unchecked, CloseOver: 100 * time.Millisecond}
		way(t, &o)
		p := newProxy(t, []sticky.Node{real(t, "a", upgrades)}, o)
		s := front(t, p)
		addr := s.Listener.Addr().String()
		var readers []*bufio.Reader
		for range 5 {
			c, r, _ := dialUpgrade(t, addr, "")
			expectEcho(t, c, r, "hello")
			readers = append(readers, r)
		}
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, r := range readers {
			expectClosed(t, r)
		}
		if st := p.Status(); st.InFlight != 0 || st.Nodes[0].Upgraded != 0 {
			t.Errorf("%+v", st)
		}
		if _, _, res := dialUpgrade(t, addr, ""); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
			t.Errorf("a new upgrade after Shutdown: %v; want 503", res)
		}
		if res, body := do(t, http.DefaultClient, newRequest(t, "GET", s.URL, nil)); body != "plain" {
			t.Errorf("another request: %v %s; want that it is served", res, body)
		}
	})
}

// The moments at which connections are closed are spread over the whole span, so
// that their clients do not all come back at once.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, tenths = 1000, 10
		ends := sticky.CloseAll(n, tenths*time.Second)
		var in [tenths]int
		for _, d := range ends {
			in[d/time.Second]++
		}
		for i, got := range in {
			if len(ends) != n || got < n/tenths/2 || got > n/tenths*2 {
				t.Fatalf("%d connections in the tenth number %d, %d in all; want about %d of %d", got, i, len(ends), n/tenths, n)
			}
		}
	})
}

// The span ends before the deadline of the caller.
func TestShutdownBeforeTheDeadline(t *testing.T) {
	p := newProxy(t, []sticky.Node{real(t, "a", upgrades)}, sticky.Options{Health: unchecked, CloseOver: time.Hour})
	_, r, _ := dialUpgrade(t, front(t, p).Listener.Addr().String(), "")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("%v: an hour's jitter does not end before a deadline that is sooner", err)
	}
	expectClosed(t, r)
}

// A client that hangs up ends the node's side.
func TestClientLeavesUpgradedConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		ended := make(chan struct{})
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			upgrades(w, r)
			close(ended)
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		c, r, _ := dialUpgrade(t, front(t, p).Listener.Addr().String(), "")
		expectEcho(t, c, r, "x")
		c.Close()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("the node's side is still open")
		}
	})
}

func TestExpectContinue(t *testing.T) {
	eachWay(t, func(t *testing.T, way func(testing.TB, *sticky.Options)) {
		node := real(t, "a", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/no" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			b, _ := io.ReadAll(r.Body)
			w.Write(bytes.ToUpper(b))
		}))
		o := sticky.Options{Health: unchecked}
		way(t, &o)
		p := newProxy(t, []sticky.Node{node}, o)
		s := front(t, p)
		client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Hour}}
		r := newRequest(t, "POST", s.URL, strings.NewReader("body"))
		r.Header.Set("Expect", "100-continue")
		if _, body := do(t, client, r); body != "BODY" {
			t.Errorf("%q", body)
		}
		read := false
		r = newRequest(t, "POST", s.URL+"/no", readerFunc(func(p []byte) (int, error) { read = true; return 0, io.EOF }))
		r.ContentLength = 4
		r.Header.Set("Expect", "100-continue")
		if res, _ := do(t, client, r); res.StatusCode != 403 || read {
			t.Errorf("%d, body asked for: %v; want 403 without it", res.StatusCode, read)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestNodesOverTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }))
	defer s.Close()
	nodes := []sticky.Node{{ID: "a", URL: parse(t, s.URL)}}
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	p := newProxy(t, nodes, sticky.Options{Health: unchecked, TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"}})
	if w := serve(p, request("POST", v4(1))); w.Body.String() != "HTTP/1.1" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	p = newProxy(t, nodes, sticky.Options{Health: unchecked, TLS: &tls.Config{ServerName: "example.com"}})
	if w := serve(p, request("POST", v4(1))); w.Code != 502 {
		t.Errorf("a certificate that nobody knows: %d; want 502", w.Code)
	}
}

func TestObserver(t *testing.T) {
	var seen []sticky.Outcome
	c := map[string]bool{}
	p := newProxy(t, named("a", "b"), sticky.Options{
		By: sticky.ByIP(), Health: unchecked, Observer: func(r *http.Request, o sticky.Outcome) { seen = append(seen, o) },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if c[r.URL.Host] {
				return nil, fmt.Errorf("out: %w", sticky.ErrNotSent)
			}
			return response(200, r.URL.Host), nil
		}),
	})
	first := serve(p, request("GET", v4(1))).Body.String()
	c[first] = true
	second := serve(p, request("GET", v4(1))).Body.String()
	c[second] = true
	serve(p, request("GET", v4(1)))
	if len(seen) != 3 {
		t.Fatalf("%d outcomes", len(seen))
	}
	if o := seen[0]; o.Node != first || o.Attempts != 1 || o.Moved || o.Err != nil || o.Client.String()+":4711" != v4(1) {
		t.Errorf("%+v", o)
	}
	if o := seen[1]; o.Node != second || o.Attempts != 2 || !o.Moved || o.Err != nil {
		t.Errorf("%+v", o)
	}
	if o := seen[2]; o.Node != "" || o.Attempts != 2 || o.Err == nil {
		t.Errorf("%+v", o)
	}
}
