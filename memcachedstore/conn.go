package memcachedstore

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
)

// dialer makes connections for the client: with TLS, and signed in.
type dialer struct {
	tls                *tls.Config // nil: in clear
	username, password string      // "": none
}

// unsentError: the request never left, so that it may be sent again, here or
// elsewhere, whatever it was.
type unsentError struct {
	err   error
	stale bool // an idle connection had been closed by the server
}

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// errAuth is told apart at start.
var errAuth = errors.New("the server refuses the user name or the password")

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, &unsentError{err: err}
	}
	c := &conn{Conn: raw, raw: raw}
	if err := d.prepare(ctx, c, addr); err != nil {
		raw.Close()
		return nil, &unsentError{err: err}
	}
	return c, nil
}

func (d *dialer) prepare(ctx context.Context, c *conn, addr string) error {
	if d.tls != nil {
		config := d.tls
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(c.raw, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		c.Conn = secure
	}
	if d.username == "" {
		return nil
	}
	if end, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(end); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { c.raw.Close() })()
	return d.signIn(c)
}

// signIn is the text protocol's authentication (memcached -Y, Infinispan): the
// first command is a set, of any key, with the user's name and password as its
// value.
func (d *dialer) signIn(c net.Conn) error {
	credentials := d.username + " " + d.password
	if _, err := fmt.Fprintf(c, "set session 0 0 %d\r\n%s\r\n", len(credentials), credentials); err != nil {
		return err
	}
	answer, err := bufio.NewReaderSize(c, 128).ReadString('\n') // there is one line and no more
	switch {
	case err != nil:
		return fmt.Errorf("sign in: %w", err)
	case strings.TrimSpace(answer) != "STORED":
		return errAuth // and not the answer: it might repeat what was sent
	}
	return nil
}

// conn is a connection that knows whether a request may have been sent. The
// client keeps idle connections, and the server may have closed one meanwhile
// (a restart, its idle_timeout); without a look at it the next request would
// fail, and a save would not know whether it was done.
type conn struct {
	net.Conn
	raw      net.Conn // beneath TLS
	answered bool     // what is written next begins a new request
}

func (c *conn) Read(b []byte) (int, error) {
	c.answered = true
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	if c.answered {
		c.answered = false
		if err := idle(c.raw); err != nil {
			return 0, &unsentError{err: err, stale: true}
		}
	}
	return c.Conn.Write(b)
}

var (
	errClosed = errors.New("the server has closed the idle connection")
	// What comes unasked belongs to another request.
	errUnasked = errors.New("the server has sent what nobody asked for")
)
