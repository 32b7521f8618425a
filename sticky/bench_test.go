package sticky_test

import (
	"io"
	"net/http"
	"net/http/httputil"
	"testing"

	"github.com/distsession/session/sticky"
)

// nowhere takes the answer and forgets it.
type nowhere struct{ h http.Header }

func (w *nowhere) Header() http.Header         { return w.h }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkServeHTTP is the handler alone, without a network: what choosing a
// node adds to ReverseProxy.
func BenchmarkServeHTTP(b *testing.B) {
	body := make([]byte, 1024)
	answer := roundTripper(func(r *http.Request) (*http.Response, error) {
		res := response(200, "")
		res.Body, res.ContentLength = io.NopCloser(&repeat{body}), 1024
		return res, nil
	})
	run := func(b *testing.B, h http.Handler, edit ...func(*http.Request)) {
		r := request("GET", "192.0.2.1:1", edit...)
		r.Header.Set("User-Agent", "bench")
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(&nowhere{http.Header{}}, r)
		}
	}
	nodes := named("a", "b", "c")
	session := withCookie("session=0123456789012345678901234567890123456789012; affinity=" + sticky.CookieValue(key(1), "b"))
	b.Run("ReverseProxy", func(b *testing.B) {
		run(b, &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) { pr.SetURL(nodes[0].URL) }, Transport: answer}, session)
	})
	b.Run("by cookie", func(b *testing.B) {
		run(b, newProxy(b, nodes, sticky.Options{Keys: [][]byte{key(1)}, Health: unchecked, Transport: answer}), session)
	})
	b.Run("by IP", func(b *testing.B) {
		run(b, newProxy(b, nodes, sticky.Options{By: sticky.ByIP(), Health: unchecked, Transport: answer}), session)
	})
}

// repeat gives its bytes once.
type repeat struct{ left []byte }

func (r *repeat) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
