package sticky_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// recorder writes down which hooks were called.
type recorder struct {
	mu    sync.Mutex
	calls []string
}

func (r *recorder) note(call string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, call)
}

func (r *recorder) has(call string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.calls, call)
}

func (r *recorder) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(hostPort string) {
			if _, _, err := net.SplitHostPort(hostPort); err != nil {
				r.note("GetConn without port")
			}
			r.note("GetConn")
		},
		GotConn: func(info httptrace.GotConnInfo) {
			if info.Conn == nil || info.WasIdle != info.Reused || info.IdleTime < 0 {
				r.note("GotConn without sense")
			}
			if info.Reused {
				r.note("GotConn reused")
				return
			}
			r.note("GotConn")
		},
		PutIdleConn: func(err error) {
			if err != nil {
				r.note("PutIdleConn failed")
				return
			}
			r.note("PutIdleConn")
		},
		GotFirstResponseByte: func() { r.note("GotFirstResponseByte") },
		Got100Continue:       func() { r.note("Got100Continue") },
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			r.note("Got1xxResponse " + http.StatusText(code) + h.Get("Link"))
			return nil
		},
		ConnectStart:      func(network, addr string) { r.note("ConnectStart") },
		ConnectDone:       func(network, addr string, err error) { r.note("ConnectDone") },
		TLSHandshakeStart: func() { r.note("TLSHandshakeStart") },
		TLSHandshakeDone:  func(_ tls.ConnectionState, err error) { r.note("TLSHandshakeDone") },
		WroteHeaderField:  func(key string, _ []string) { r.note("WroteHeaderField " + key) },
		WroteHeaders:      func() { r.note("WroteHeaders") },
		Wait100Continue:   func() { r.note("Wait100Continue") },
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err != nil {
				r.note("WroteRequest failed")
				return
			}
			r.note("WroteRequest")
		},
	}
}

// What the balancer knows of an attempt it knows from these hooks.
func TestDirectTrace(t *testing.T) {
	for _, tt := range []struct {
		name     string
		body     string
		expect   bool
		response string
		want     string // the calls, for the first request
		fails    bool
	}{
		{name: "GET", response: okHello,
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent WroteHeaders WroteRequest GotFirstResponseByte PutIdleConn"},
		{name: "no body", response: "HTTP/1.1 204 No Content\r\n\r\n",
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent WroteHeaders WroteRequest GotFirstResponseByte PutIdleConn"},
		{name: "POST", body: "hello", response: okHello,
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent Content-Length WroteHeaders WroteRequest GotFirstResponseByte PutIdleConn"},
		{name: "not kept", response: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent WroteHeaders WroteRequest GotFirstResponseByte"},
		{name: "103", response: "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + okHello,
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent WroteHeaders WroteRequest GotFirstResponseByte EarlyHintsa PutIdleConn"},
		{name: "expect", body: "hello", expect: true, response: "HTTP/1.1 100 Continue\r\n\r\n" + okHello,
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent Content-Length Expect WroteHeaders Wait100Continue GotFirstResponseByte Got100Continue Continue WroteRequest PutIdleConn"},
		{name: "no answer", fails: true,
			want: "GetConn ConnectStart ConnectDone GotConn Host User-Agent WroteHeaders WroteRequest"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, sticky.DirectOptions{ContinueTimeout: time.Hour}, func(t *testing.T, rt http.RoundTripper) {
				s := newRawNode(t, func(_ int, c net.Conn, r *bufio.Reader) {
					for {
						req, err := http.ReadRequest(r)
						if err != nil {
							return
						}
						response := tt.response
						if tt.expect {
							io.WriteString(c, strings.TrimSuffix(tt.response, okHello))
							response = okHello
						}
						io.Copy(io.Discard, req.Body)
						io.WriteString(c, response)
						if tt.response == "" {
							return
						}
					}
				})
				for round := range 2 {
					var rec recorder
					req := directRequest(t, "GET", s.url, nil)
					if tt.body != "" {
						req = directRequest(t, "POST", s.url, newSpyBody(tt.body))
						req.ContentLength = int64(len(tt.body))
					}
					if tt.expect {
						req.Header.Set("Expect", "100-continue")
					}
					req = req.WithContext(httptrace.WithClientTrace(req.Context(), rec.trace()))
					if got := sendDirect(rt, req); (got.err != nil) != tt.fails {
						t.Fatal(got.err)
					}
					want := strings.Fields(tt.want)
					kept := slices.Contains(want, "PutIdleConn")
					if round == 1 && kept {
						want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "Connect") })
						want[slices.Index(want, "GotConn")] = "GotConnreused"
					}
					if kept { // http.Transport calls it just after the body's end
						eventually(t, "no PutIdleConn", func() bool { return rec.has("PutIdleConn") })
					}
					rec.mu.Lock()
					for i, call := range rec.calls {
						call = strings.TrimPrefix(strings.TrimPrefix(call, "WroteHeaderField "), "Got1xxResponse ")
						rec.calls[i] = strings.ReplaceAll(call, " ", "")
					}
					// The writer of the request is another goroutine than the reader.
					slices.Sort(rec.calls)
					slices.Sort(want)
					if !slices.Equal(rec.calls, want) {
						t.Errorf("request %d:\ngot  %v\nwant %v", round, rec.calls, want)
					}
					rec.mu.Unlock()
				}
			})
		})
	}
}

// The order of what one goroutine does is what it says.
func TestDirectTraceOrder(t *testing.T) {
	s := answering(t, okHello)
	rt := direct(t, nil)
	var rec recorder
	req := directRequest(t, "GET", s.url, nil)
	if got := sendDirect(rt, req.WithContext(httptrace.WithClientTrace(req.Context(), rec.trace()))); got.err != nil {
		t.Fatal(got.err)
	}
	want := "GetConn ConnectStart ConnectDone GotConn WroteHeaderField Host WroteHeaderField User-Agent WroteHeaders WroteRequest GotFirstResponseByte PutIdleConn"
	if got := strings.Join(rec.calls, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A hook's error ends the request.
func TestDirectTraceRefusesInformational(t *testing.T) {
	both(t, sticky.DirectOptions{}, func(t *testing.T, rt http.RoundTripper) {
		s := answering(t, "HTTP/1.1 103 Early Hints\r\n\r\n"+okHello)
		trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return context.DeadlineExceeded }}
		req := directRequest(t, "GET", s.url, nil)
		if got := sendDirect(rt, req.WithContext(httptrace.WithClientTrace(req.Context(), trace))); got.err == nil {
			t.Error("goes on")
		}
	})
}
