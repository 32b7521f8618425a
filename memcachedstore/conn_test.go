package memcachedstore

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
)

// What is written on a connection that the server has closed, or on which
// something arrived unasked, is not sent and may be sent again.
func TestIdleConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(server net.Conn)
		want error
	}{
		{"in order", func(net.Conn) {}, nil},
		{"closed", func(server net.Conn) { server.Close() }, errClosed},
		{"an answer too many", func(server net.Conn) { server.Write([]byte("END\r\n")) }, errUnasked},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := new(dialer).dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		c.Write([]byte("version\r\n")) // a fresh connection is not looked at
		server.Write([]byte("VERSION 1\r\n"))
		if n, err := c.Read(make([]byte, 100)); n != 11 || err != nil {
			t.Fatalf("%s: read %d, %v", tt.name, n, err)
		}
		tt.do(server)
		if tt.want != nil {
			arrived(t, c.(*conn).raw, tt.want)
		}
		_, err = c.Write([]byte("gets a\r\n"))
		var unsent *unsentError
		if !errors.Is(err, tt.want) || errors.As(err, &unsent) != (tt.want != nil) {
			t.Errorf("%s: Write: %v; want %v", tt.name, err, tt.want)
		}
	}
}

// arrived waits until what the server did has come across. A look takes one
// byte of it.
func arrived(t *testing.T, c net.Conn, want error) {
	t.Helper()
	servers.Wait(t, want.Error(), 5*time.Second, func(context.Context) error {
		if err := idle(c); !errors.Is(err, want) {
			return errors.Join(errors.New("not yet"), err)
		}
		return nil
	})
}
