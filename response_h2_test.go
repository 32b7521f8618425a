package session_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// HTTP/2 has no Hijack and has trailers; the commit comes before the header
// there too.
func TestHTTP2(t *testing.T) {
	s := newSite(t, nil)
	srv := httptest.NewUnstartedServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := sess(t, r)
		if _, ok := w.(http.Hijacker); ok {
			t.Error("the wrapper claims to be a Hijacker")
		}
		if _, ok := w.(http.Flusher); !ok {
			t.Error("the wrapper is no Flusher")
		}
		w.Header().Set("Trailer", "X-Sum")
		x.SetUser("alice")
		io.WriteString(w, "first")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		keyValue.Set(x, "after") // saved at the end: the token stays
		io.WriteString(w, " second")
		w.Header().Set("X-Sum", "12")
		w.Header().Set("X-Late", "1") // neither a header nor a trailer any more
	})))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	got := body(t, res)
	if res.ProtoMajor != 2 || got != "first second" || res.Trailer.Get("X-Sum") != "12" || res.Header.Get("X-Late") != "" {
		t.Errorf("%s %q, header %v, trailer %v", res.Proto, got, res.Header, res.Trailer)
	}
	if len(res.Cookies()) != 1 || res.Header.Get("Vary") != "Cookie" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("header %v", res.Header)
	}
	srv.Close() // the handler has returned
	s.is(t, res.Cookies()[0].Value, "alice", "after")
}
