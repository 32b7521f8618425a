package memcachedstore

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// dialer makes connections for the client: with TLS, and signed in.
type dialer struct {
	tls                *tls.Config // nil: in clear
	username, password string      // "": none
	limit              int         // bytes of an item that is taken
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
var errAuth = errors.New("the server refuses the user name or the password; check username and password=env:NAME")

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, &unsentError{err: err}
	}
	c := &conn{Conn: raw, raw: raw, limit: d.limit}
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

// signIn is the text protocol's authentication (protocol.txt,
// "Authentication"): the first command is a set, of any key, with the user's
// name and password as its value.
func (d *dialer) signIn(c net.Conn) error {
	credentials := d.username + " " + d.password
	if _, err := fmt.Fprintf(c, "set session 0 0 %d\r\n%s\r\n", len(credentials), credentials); err != nil {
		return err
	}
	answer, err := bufio.NewReaderSize(c, 128).ReadString('\n') // there is one line and no more
	switch {
	case err != nil && !errors.Is(err, errUnasked):
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
//
// It also breaks when the server sends more than it was asked for.
type conn struct {
	net.Conn
	raw      net.Conn // beneath TLS
	limit    int      // bytes of an item
	reply    reply    // to the last request
	answered bool     // what is written next begins a new one
}

func (c *conn) Read(b []byte) (int, error) {
	c.answered = true
	n, err := c.Conn.Read(b)
	if wrong := c.reply.take(b[:n], c.limit); wrong != nil {
		c.raw.Close()
		return 0, wrong
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.answered {
		c.answered, c.reply = false, reply{}
		if err := idle(c.raw); err != nil {
			return 0, &unsentError{err: err, stale: true}
		}
	}
	c.reply.ask(b)
	return c.Conn.Write(b)
}

// SetDeadline is for a whole answer: the client would set a new one at each item.
func (c *conn) SetDeadline(t time.Time) error {
	if c.answered && !c.reply.over {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

var (
	errClosed = errors.New("the server has closed the idle connection")
	// What comes unasked belongs to another request.
	errUnasked = errors.New("the server has sent what nobody asked for")
)
