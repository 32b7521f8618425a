package hdfsstore

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A link is the connections of one client. The client knows neither contexts
// nor deadlines, and its connections end each Read and Write when the call that
// they are for has to end.
//
// Between calls the client renews its leases, once a second; that has the
// link's own limit. A server that went away is noticed by it.
type link struct {
	limit time.Duration     // of a Read or Write, whatever the call's deadline
	split bool              // there is another namenode to ask in time
	left  func(addr string) // called for a namenode that is of no use

	mu       sync.Mutex
	call     context.Context // nil between calls
	namenode *conn           // the last one that was dialled
	data     map[*conn]struct{}
	broken   error // of the connection to the namenode: no answer may be waited for any more
}

// begin makes ctx the context of what the connections do, until end. A Read
// that is under way ends with it too.
func (l *link) begin(ctx context.Context) (end func()) {
	l.mu.Lock()
	l.call = ctx
	if l.namenode != nil {
		_ = l.namenode.Conn.SetDeadline(l.deadline(l.namenode)) // an error is the next Read's
	}
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, l.cut)
	return func() {
		stop()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.call = nil
		for c := range l.data { // where it fails, the client forgets to
			_ = c.Conn.Close()
		}
		clear(l.data)
	}
}

// cut ends every Read and Write that is under way.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.call == nil || l.call.Err() == nil {
		return // of a call that has ended
	}
	for _, c := range l.all() {
		_ = c.Conn.SetDeadline(time.Unix(1, 0))
	}
}

func (l *link) all() []*conn {
	var all []*conn
	if l.namenode != nil {
		all = append(all, l.namenode)
	}
	for c := range l.data {
		all = append(all, c)
	}
	return all
}

// close breaks the connections, so that what waits for them ends.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = net.ErrClosed
	}
	for _, c := range l.all() {
		_ = c.Conn.Close()
	}
}

// failure is why the connection to the namenode cannot be used any more, or
// nil.
func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

// deadline is when a Read or Write of c that begins now has to end. Where there
// is another server to turn to, the one that is silent gets half of the time
// that the call has left. l.mu is held.
func (l *link) deadline(c *conn) time.Time {
	if c.data {
		return c.until
	}
	if l.split {
		return l.within(2)
	}
	return l.within(1)
}

// within is the end of the n-th part of the time that is left. l.mu is held.
func (l *link) within(n time.Duration) time.Time {
	now := time.Now()
	left := l.limit
	if l.call != nil {
		if d, ok := l.call.Deadline(); ok {
			left = min(left, d.Sub(now))
		}
	}
	return now.Add(left / n)
}

// dialNamenode is the client's NamenodeDialFunc.
func (l *link) dialNamenode(_ context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	if l.broken != nil {
		// The client would go on with another connection after an answer was
		// lost. It is replaced.
		defer l.mu.Unlock()
		return nil, l.broken
	}
	c := &conn{link: l, addr: addr}
	last := l.namenode
	l.mu.Unlock()
	if last != nil {
		l.left(last.addr) // it is on standby
	}
	if err := c.dial(network); err != nil {
		l.left(addr)
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.namenode = c
	return c, nil
}

// dialDatanode is the client's DatanodeDialFunc.
func (l *link) dialDatanode(_ context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	c := &conn{link: l, addr: addr, data: true, until: l.within(2)}
	l.mu.Unlock()
	if err := c.dial(network); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.data == nil {
		l.data = map[*conn]struct{}{}
	}
	l.data[c] = struct{}{}
	return c, nil
}

// conn is a connection whose deadlines are its link's.
type conn struct {
	net.Conn
	link  *link
	addr  string
	data  bool      // to a datanode
	until time.Time // to a datanode: the end of all that it does

	failed atomic.Pointer[error] // of a Write to a datanode
}

func (c *conn) dial(network string) error {
	ctx, deadline, err := c.start()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	c.Conn, err = (&net.Dialer{}).DialContext(ctx, network, c.addr)
	return err
}

// start returns the context and deadline of what begins now.
func (c *conn) start() (context.Context, time.Time, error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx := l.call
	if ctx == nil {
		ctx = context.Background()
	}
	deadline := l.deadline(c)
	if c.Conn != nil {
		// Under the lock: cut's comes after it, or is seen in ctx.
		_ = c.Conn.SetDeadline(deadline)
	}
	return ctx, deadline, ctx.Err()
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	if err := c.failed.Load(); err != nil {
		return 0, *err
	}
	return c.do(b, c.Conn.Read)
}

// Write implements net.Conn.
//
// To a datanode it never fails: what went wrong is told by the Read that waits
// for the acknowledgement. When a Write fails the client leaves a goroutine
// behind (blockWriteStream.finish returns before it closes the channel that
// ackPackets reads).
func (c *conn) Write(b []byte) (int, error) {
	if c.failed.Load() != nil {
		return len(b), nil
	}
	n, err := c.do(b, c.Conn.Write)
	if err != nil && c.data {
		c.failed.Store(&err)
		return len(b), nil
	}
	return n, err
}

func (c *conn) do(b []byte, f func([]byte) (int, error)) (int, error) {
	_, _, err := c.start()
	n := 0
	if err == nil {
		n, err = f(b)
	}
	if err != nil && !c.data {
		c.link.fail(c, err)
	}
	return n, err
}

// fail notes that an answer of the namenode is lost, or will come too late.
func (l *link) fail(c *conn, err error) {
	l.mu.Lock()
	first := l.broken == nil && l.namenode == c
	if first {
		l.broken = err
	}
	l.mu.Unlock()
	if first && os.IsTimeout(err) {
		l.left(c.addr)
	}
}

// The client sets deadlines only to take them away.

func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
