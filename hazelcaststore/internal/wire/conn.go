package wire

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options are how a connection is made.
type Options struct {
	Cluster        string // its name
	User, Password string // "": none
	Cache          string // as the member's configuration calls it
	TLS            *tls.Config
	Limit          int           // bytes that an answer may take
	KeepAlive      time.Duration // a connection on which nothing came for so long is tried, and then given up
}

// The refusals that dialing tells apart.
var (
	ErrLogin   = errors.New("the member refuses the cluster's name, the user or the password")
	ErrNoCache = errors.New("the members' configuration declares no such cache")
)

// unsentError: the request never left, so that it may be sent elsewhere,
// whatever it was.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }

// Unsent tells whether an error means that the member never got the request.
func Unsent(err error) bool {
	var e unsentError
	return errors.As(err, &e)
}

// A Conn is a connection to one member, for many calls at once.
type Conn struct {
	raw  net.Conn // beneath TLS
	conn net.Conn
	opts Options

	partitions int32
	cluster    [16]byte

	out  chan []byte   // messages to be written
	done chan struct{} // closed when the connection is of no use any more
	wait sync.WaitGroup

	heard atomic.Int64 // messages that came

	mu    sync.Mutex
	last  int64 // correlation
	calls map[int64]call
	err   error // why done is closed
}

type call struct {
	kind   int32
	answer chan *Message // has room for one
}

// Dial connects to a member, signs in, and makes it create the cache. ctx is for
// that alone: Close the connection.
func Dial(ctx context.Context, addr string, opts Options) (*Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, unsentError{err}
	}
	c := &Conn{raw: raw, conn: raw, opts: opts, calls: map[int64]call{}, out: make(chan []byte), done: make(chan struct{})}
	r, err := c.open(ctx, addr)
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, unsentError{err}
	}
	c.wait.Go(func() { c.read(r) })
	c.wait.Go(c.write)
	c.wait.Go(c.watch)
	if err := c.createProxy(ctx); err != nil {
		c.Close()
		return nil, unsentError{err}
	}
	return c, nil
}

// open does what comes before the first call.
func (c *Conn) open(ctx context.Context, addr string) (*bufio.Reader, error) {
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	defer stop()
	if c.opts.TLS != nil {
		config := c.opts.TLS
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(c.raw, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.conn = secure
	}
	var id [16]byte
	rand.Read(id[:]) // never fails
	hello := append([]byte("CP2"), authenticate(c.opts.Cluster, c.opts.User, c.opts.Password, id).seal(0)...)
	if _, err := c.conn.Write(hello); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c.conn, 1<<14)
	m, err := readMessage(r, c.opts.Limit)
	if err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	if m.kind() == kindError {
		return nil, fmt.Errorf("sign in: %w", m.failure())
	}
	if m.kind() != kindAuthenticate+1 || m.correlation() != 0 {
		return nil, fmt.Errorf("sign in: %w", ErrMalformed)
	}
	l, err := m.login()
	switch {
	case err != nil:
		return nil, fmt.Errorf("sign in: %w", err)
	case l.status == 1:
		return nil, ErrLogin
	case l.status != 0:
		return nil, fmt.Errorf("the member refuses the connection: status %d", l.status)
	}
	c.partitions, c.cluster = l.partitions, l.cluster
	if !stop() {
		return nil, ctx.Err()
	}
	return r, nil
}

// Alive tells whether calls can be made.
func (c *Conn) Alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Partitions is the number of the cluster's partitions.
func (c *Conn) Partitions() int32 { return c.partitions }

// Cluster is the random name that the cluster got when it was founded.
func (c *Conn) Cluster() [16]byte { return c.cluster }

// Close ends the connection. What was not sent yet is not sent any more.
func (c *Conn) Close() {
	c.fail(net.ErrClosed)
	c.wait.Wait()
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a write that was given up must not arrive later
	}
	c.raw.Close()
	close(c.done)
}

func (c *Conn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// read hands the answers to those who wait for them.
func (c *Conn) read(r *bufio.Reader) {
	for {
		m, err := readMessage(r, c.opts.Limit)
		if err == nil {
			err = c.deliver(m)
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.heard.Add(1)
	}
}

func (c *Conn) deliver(m *Message) error {
	if m.event() {
		return nil
	}
	n := m.correlation()
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < 1 || n > c.last {
		return fmt.Errorf("%w: it answers what nobody asked", ErrMalformed)
	}
	waiting, ok := c.calls[n]
	if !ok {
		return nil // it comes too late, or was a ping
	}
	delete(c.calls, n)
	if kind := m.kind(); kind != kindError && kind != waiting.kind+1 {
		return fmt.Errorf("%w: it is of the wrong type", ErrMalformed)
	}
	waiting.answer <- m
	return nil
}

// write writes what calls hand over, as much as there is at a time.
func (c *Conn) write() {
	w := bufio.NewWriterSize(c.conn, 1<<14)
	for {
		select {
		case b := <-c.out:
			if _, err := w.Write(b); err != nil {
				c.fail(err)
				return
			}
			continue
		default:
		}
		if err := w.Flush(); err != nil {
			c.fail(err)
			return
		}
		select {
		case b := <-c.out:
			if _, err := w.Write(b); err != nil {
				c.fail(err)
				return
			}
		case <-c.done:
			return
		}
	}
}

var errSilent = errors.New("the member does not answer any more")

// watch pings when nothing has come for a while, for a member drops a client
// that is silent, and gives the connection up if nothing comes then either.
func (c *Conn) watch() {
	tick := time.NewTicker(c.opts.KeepAlive)
	defer tick.Stop()
	heard, asked := c.heard.Load(), false
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		now := c.heard.Load()
		switch {
		case now != heard:
			heard, asked = now, false
			continue
		case asked:
			c.fail(errSilent)
			return
		}
		asked = true
		c.mu.Lock()
		c.last++
		b := ping().seal(c.last)
		c.mu.Unlock()
		select {
		case c.out <- b:
		case <-c.done:
			return
		case <-time.After(c.opts.KeepAlive):
			c.fail(errSilent)
			return
		}
	}
}

// call sends a request and waits for the answer. An error for which Unsent is
// true says that nothing was done; any other leaves it open.
func (c *Conn) call(ctx context.Context, r *Request) (*Message, error) {
	if err := ctx.Err(); err != nil {
		return nil, unsentError{err}
	}
	answer := make(chan *Message, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, unsentError{c.err}
	}
	c.last++
	n := c.last
	c.calls[n] = call{r.kind, answer}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, n)
		c.mu.Unlock()
	}()
	select {
	case c.out <- r.seal(n):
	case <-ctx.Done():
		return nil, unsentError{ctx.Err()}
	case <-c.done:
		return nil, unsentError{c.failure()}
	}
	select {
	case m := <-answer:
		return m, c.refusal(m)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
	}
	select {
	case m := <-answer: // the last one before the end
		return m, c.refusal(m)
	default:
		return nil, c.failure()
	}
}

func (c *Conn) refusal(m *Message) error {
	if m.kind() != kindError {
		return nil
	}
	err := m.failure()
	if errors.Is(err, ErrMalformed) {
		c.fail(err)
	}
	return err
}

// do is call; if the member does not have the cache, because all members were
// down meanwhile, it has to create it.
func (c *Conn) do(ctx context.Context, request func() *Request) (*Message, error) {
	m, err := c.call(ctx, request())
	if refused := (*Error)(nil); errors.As(err, &refused) && refused.Code == CodeNoCache {
		if err := c.createProxy(ctx); err != nil {
			return nil, unsentError{err}
		}
		m, err = c.call(ctx, request())
	}
	return m, err
}

func (c *Conn) createProxy(ctx context.Context) error {
	_, err := c.call(ctx, createProxy(c.opts.Cache))
	if refused := (*Error)(nil); errors.As(err, &refused) && refused.Code == CodeNoCache {
		return ErrNoCache
	}
	return err
}
