package sticky

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

// directConn is a connection to a node. One request at a time has it.
type directConn struct {
	to    nodeAddr
	epoch int // of the pool
	probe *probe
	conn  net.Conn // probe.Conn, or TLS over probe
	tls   *tls.ConnectionState
	br    *bufio.Reader
	bw    *bufio.Writer

	reused    bool
	idleSince time.Time

	// Of the reading side.
	limit   int64 // how many bytes may yet be read
	readErr error

	// Of the writing side.
	sent     atomic.Bool // any byte of the request
	writeErr error
	patience time.Duration // with a node that takes nothing; 0: endless
	writeBy  time.Time     // the deadline for writing, if there is one

	mu      sync.Mutex
	cause   error     // why it was aborted
	heading bool      // a response's header is awaited
	until   time.Time // the deadline for reading, if there is one
}

func (t *DirectTransport) dial(ctx context.Context, to nodeAddr, trace *httptrace.ClientTrace) (*directConn, error) {
	if t.opts.DialTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.opts.DialTimeout)
		defer cancel()
	}
	c := &directConn{to: to, epoch: t.idle.current()}
	raw, err := t.opts.Dial(ctx, "tcp", to.addr())
	if err != nil {
		return nil, err
	}
	c.probe = newProbe(raw)
	c.conn = raw
	if to.scheme == "https" {
		if err := c.handshake(ctx, t.opts.TLS, trace); err != nil {
			raw.Close()
			return nil, err
		}
	}
	c.br = bufio.NewReader(connReader{c})
	c.bw = bufio.NewWriter(connWriter{c})
	return c, nil
}

func (c *directConn) handshake(ctx context.Context, config *tls.Config, trace *httptrace.ClientTrace) error {
	if config.ServerName == "" {
		config = config.Clone()
		var err error
		if config.ServerName, _, err = net.SplitHostPort(c.to.addr()); err != nil {
			return err
		}
	}
	if trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	over := tls.Client(c.probe, config)
	err := over.HandshakeContext(ctx)
	state := over.ConnectionState()
	if trace != nil && trace.TLSHandshakeDone != nil {
		trace.TLSHandshakeDone(state, err)
	}
	c.conn, c.tls = over, &state
	return err
}

// connReader counts what is read: the header of a response is bounded, and a
// connection on which the end was seen is of no more use. Parsers may tell of a
// half line what is really the connection's error.
type connReader struct{ c *directConn }

var errHeaderTooLong = errors.New("the header of the response is too long")

func (r connReader) Read(p []byte) (int, error) {
	c := r.c
	if c.limit <= 0 {
		c.readErr = errHeaderTooLong
		return 0, c.readErr
	}
	if int64(len(p)) > c.limit {
		p = p[:c.limit]
	}
	n, err := c.conn.Read(p)
	c.limit -= int64(n)
	if err != nil {
		c.readErr = err
	}
	return n, err
}

// connWriter remembers whether anything was written, and what went wrong.
type connWriter struct{ c *directConn }

func (w connWriter) Write(p []byte) (int, error) {
	if w.c.patience > 0 {
		w.c.urge()
	}
	n, err := w.c.conn.Write(p)
	if n > 0 {
		w.c.sent.Store(true)
	}
	if err != nil {
		w.c.writeErr = err
	}
	return n, err
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadFrom spares a large body the small buffer of the bufio.Writer.
func (w connWriter) ReadFrom(r io.Reader) (n int64, err error) {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf[:])
}

// begin makes the connection ready for a request.
func (c *directConn) begin(limit int64) {
	c.limit = limit
	c.sent.Store(false)
	c.writeErr = nil
	c.heading = true // nobody else has the connection yet
}

// await bounds the rest of the wait for the response's header: it takes up to a
// sixteenth longer than d. Setting a deadline costs as much as a small system
// call, so one that is far enough ahead, from an earlier request, will do.
func (c *directConn) await(d time.Duration) {
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.heading {
		return
	}
	now := time.Now()
	if least, most := now.Add(d), now.Add(d+d/16); c.until.Before(least) || c.until.After(most) {
		c.until = most
		c.conn.SetReadDeadline(most)
	}
}

// headed ends that wait. If the whole response is here already, the deadline may
// stand.
func (c *directConn) headed(whole bool) {
	c.limit = math.MaxInt64
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heading = false
	if !whole {
		c.untimed()
	}
}

// urge bounds a write: it takes up to a sixteenth longer than patience.
func (c *directConn) urge() {
	now := time.Now()
	if c.writeBy.Before(now.Add(c.patience)) {
		c.writeBy = now.Add(c.patience + c.patience/16)
		c.conn.SetWriteDeadline(c.writeBy)
	}
}

// calm ends that. A request without a body is not bounded: the socket takes it.
func (c *directConn) calm() {
	c.patience = 0
	if !c.writeBy.IsZero() {
		c.writeBy = time.Time{}
		c.conn.SetWriteDeadline(c.writeBy)
	}
}

// untimed takes the deadline away.
func (c *directConn) untimed() {
	if !c.until.IsZero() {
		c.until = time.Time{}
		c.conn.SetReadDeadline(c.until)
	}
}

// abort breaks the connection, whoever reads from it or writes to it, for a
// reason that they are told: the first one counts, and abort tells whether this
// was it. TLS takes no leave, for that could block.
func (c *directConn) abort(cause error) (first bool) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause, first = cause, true
	}
	c.mu.Unlock()
	c.probe.Conn.Close()
	return first
}

// why returns the reason for which the connection was aborted.
func (c *directConn) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// writeFailure is what kept the request from being written, if that was the
// connection, and if its writing has ended.
func (c *directConn) writeFailure(u *upload) error {
	if u != nil {
		select {
		case <-u.done:
		default:
			return nil
		}
	}
	return c.writeErr
}

// quiet tells whether an idle connection is still open, and nothing has come
// that no request asked for.
func (c *directConn) quiet() bool {
	if c.br.Buffered() > 0 {
		return false
	}
	if !time.Now().Before(c.until) {
		c.untimed()
	}
	if c.probe.raw == nil {
		c.until = time.Time{} // a glance takes it away
	}
	var b [1]byte
	if c.tls == nil {
		_, err := c.probe.look(b[:])
		return err == errNothing
	}
	// What came may be a record without data, such as a session ticket; and
	// records may have been read from the socket before.
	c.probe.looking = true
	_, err := c.conn.Read(b[:])
	c.probe.looking = false
	return errors.Is(err, errNothing)
}
