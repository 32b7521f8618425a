package sticky_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// canned is a connection on which everything comes that a node will ever say.
type canned struct {
	io.Reader
	closed bool
}

func (c *canned) Write(p []byte) (int, error)      { return len(p), nil }
func (c *canned) Close() error                     { c.closed = true; return nil }
func (c *canned) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *canned) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

// FuzzDirectResponse has a node answer whatever it likes. The response is what
// http.ReadResponse makes of it; and the connection is kept only if the node
// said nothing more and either side may use it again.
func FuzzDirectResponse(f *testing.F) {
	for _, seed := range []string{
		okHello, okHello + evil, "",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: end\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\nx",
		"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nhello",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nhello",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 099 Odd\r\n\r\n", "HTTP/9.1 200\r\n\r\n",
	} {
		for _, head := range []bool{false, true} {
			f.Add([]byte(seed), head)
		}
	}
	f.Fuzz(func(t *testing.T, said []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		conn := &canned{Reader: bytes.NewReader(said)}
		kept := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{PutIdleConn: func(err error) { kept = err == nil }})
		rt := sticky.NewDirectTransport(&sticky.DirectOptions{
			Dial: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		})
		defer rt.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, method, "http://node", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := rt.RoundTrip(req)

		// The same by the book.
		r := bufio.NewReader(bytes.NewReader(said))
		var want *http.Response
		var wantErr error
		for informational := 0; ; informational++ {
			want, wantErr = http.ReadResponse(r, req)
			if wantErr == nil && want.StatusCode < 100 || informational > 128 {
				wantErr = errors.New("nonsense")
			}
			if wantErr != nil || want.StatusCode >= 200 || want.StatusCode == 101 {
				break
			}
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("error %v, by the book %v", err, wantErr)
		}
		if err != nil {
			if !conn.closed || kept {
				t.Error("the connection is kept after an error")
			}
			return
		}
		if res.StatusCode == 101 {
			return
		}
		got, bodyErr := io.ReadAll(res.Body)
		res.Body.Close()
		wantBody, wantBodyErr := io.ReadAll(want.Body)
		if res.StatusCode != want.StatusCode || !maps.EqualFunc(res.Header, want.Header, func(a, b []string) bool { return reflect.DeepEqual(a, b) }) ||
			!bytes.Equal(got, wantBody) || res.ContentLength != want.ContentLength || !reflect.DeepEqual(res.Trailer, want.Trailer) || (bodyErr == nil) != (wantBodyErr == nil) {
			t.Errorf("%+v %q %v\nby the book %+v %q %v", res, got, bodyErr, want, wantBody, wantBodyErr)
		}
		_, more := r.Peek(1)
		if may := bodyErr == nil && !want.Close && more == io.EOF; kept && !may {
			t.Errorf("kept a connection that must not be used again: %q", said)
		} else if !kept && !conn.closed {
			t.Error("neither kept nor closed")
		}
	})
}
