package wire

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
)

// Options of a connection.
type Options struct {
	TLS            *tls.Config // nil: in clear
	User, Password string      // "": none
	MaxFrame       int         // bytes of a message that is taken; a longer one ends the connection
}

// Conn is one connection, on which many requests may be under way at once.
type Conn struct {
	raw   net.Conn // with TLS, if there is any
	max   int
	queue chan *request // to be written
	last  atomic.Int64  // when something was read last
	wg    sync.WaitGroup

	mu      sync.Mutex
	ids     int64
	waiting map[int64]*request
	err     error         // why it ended
	done    chan struct{} // closed when it ended
}

// request is one under way.
type request struct {
	id     int64
	text   message
	answer chan []byte
	taken  atomic.Bool  // by the writer, or by the caller, who then takes it back
	late   func([]byte) // reads an answer for which the caller did not wait; nil: it is nothing
}

// An Error is what a member answers when it cannot do what it was asked.
type Error struct {
	Status  int32
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("Ignite answers %d: %s", e.Status, e.Message) }

// The statuses that are told apart.
const (
	StatusNoCache = 1000 // the cache does not exist
	StatusAuth    = 2000 // the user or the password is refused
)

func newError(status int32, text []byte) *Error {
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return -1
	}, line)
	return &Error{Status: status, Message: line[:min(len(line), 200)]}
}

// An Unsent error says that the request never left, so that it may be sent
// again, here or elsewhere, whatever it was.
type Unsent struct{ err error }

func (e *Unsent) Error() string { return e.err.Error() }
func (e *Unsent) Unwrap() error { return e.err }

var (
	errClosed = errors.New("the connection was closed")
	errSilent = errors.New("the member does not answer")

	// ErrVersion: the member speaks another version of the protocol.
	ErrVersion = errors.New("the member does not speak version 1.7 of the protocol")
)

// silence is how long a member may say nothing to a request before its
// connection is given up with the request.
const silence = 200 * time.Millisecond

// version of the protocol.
const major, minor, patch = 1, 7, 0

// Dial connects and signs in. Its errors are Unsent; the member's "no" is an
// Error in it.
func Dial(ctx context.Context, addr string, opts Options) (*Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &Unsent{err}
	}
	c := &Conn{raw: raw, max: opts.MaxFrame, queue: make(chan *request, 64), waiting: map[int64]*request{}, done: make(chan struct{})}
	r, err := c.handshake(ctx, addr, opts)
	if err != nil {
		raw.Close()
		return nil, &Unsent{cmp.Or(ctx.Err(), err)}
	}
	c.wg.Go(func() { c.fail(c.read(r)) })
	c.wg.Go(func() { c.fail(c.write()) })
	return c, nil
}

func (c *Conn) handshake(ctx context.Context, addr string, opts Options) (*bufio.Reader, error) {
	raw := c.raw
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	if opts.TLS != nil {
		config := opts.TLS
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(c.raw, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
		c.raw = secure
	}
	m := make(message, 4, 64).byte(1).int16(major).int16(minor).int16(patch).byte(2).bytes(nil)
	if opts.User != "" {
		m = m.string(opts.User).string(opts.Password)
	}
	if _, err := c.raw.Write(m.sealed()); err != nil {
		return nil, err
	}
	r := bufio.NewReader(c.raw)
	b, err := readFrame(r, chunk, func() {})
	if err != nil {
		return nil, err
	}
	if err := greeting(b); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, ctx.Err()
	}
	return r, nil
}

// greeting reads the answer to a handshake.
func greeting(b []byte) error {
	p := &parser{b: b}
	if p.bool() {
		p.object(typeBytes)  // features
		if p.byte() != 101 { // the member's UUID, which may be null
			p.take(16)
		}
		return p.end()
	}
	v1, v2, v3 := p.int16(), p.int16(), p.int16()
	text, status := p.object(typeString), p.int32()
	if err := p.end(); err != nil {
		return err
	}
	if status != StatusAuth && (v1 != major || v2 != minor || v3 != patch) {
		return fmt.Errorf("%w but %d.%d.%d: %w", ErrVersion, v1, v2, v3, newError(status, text))
	}
	return newError(status, text)
}

// Close ends the connection, and what is under way on it.
func (c *Conn) Close() error {
	c.fail(errClosed)
	c.wg.Wait()
	return nil
}

// Err is why the connection ended, nil while it is of use.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Local tells whether the other end is on this machine.
func (c *Conn) Local() bool {
	a, ok := c.raw.RemoteAddr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
		c.raw.Close()
	}
}

// read hands out the answers, which come in any order.
func (c *Conn) read(r *bufio.Reader) error {
	for {
		b, err := readFrame(r, c.max, func() { c.last.Store(time.Now().UnixNano()) })
		if err != nil {
			return err
		}
		p := &parser{b: b}
		id := p.int64()
		c.mu.Lock()
		q, issued := c.waiting[id], id > 0 && id <= c.ids
		delete(c.waiting, id)
		c.mu.Unlock()
		switch {
		case p.failed || !issued:
			return ErrNonsense
		case q != nil: // otherwise its caller has gone
			q.answer <- p.b
		}
	}
}

// write sends the requests, those that wait together in one piece.
func (c *Conn) write() error {
	w := bufio.NewWriterSize(c.raw, 16<<10)
	for {
		select {
		case <-c.done:
			return nil
		case q := <-c.queue:
			if q.taken.Swap(true) {
				break // its caller has gone
			}
			if _, err := w.Write(q.text); err != nil {
				return err
			}
		}
		if len(c.queue) == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

// ask sends a request, whose id is still missing, and reads the answer with
// parse. It returns at ctx's end.
func (c *Conn) ask(ctx context.Context, m message, parse func(*parser)) error {
	return c.askLate(ctx, m, parse, nil)
}

// askLate is ask, and calls late with the answer if that comes after ctx's end.
func (c *Conn) askLate(ctx context.Context, m message, parse func(*parser), late func([]byte)) error {
	from := time.Now()
	q, err := c.enlist(m, late)
	if err != nil {
		return &Unsent{err}
	}
	select {
	case c.queue <- q:
	case <-c.done:
	case <-ctx.Done():
	}
	var answer []byte
	select {
	case answer = <-q.answer:
	case <-ctx.Done():
		if time.Since(from) >= silence && c.last.Load() < from.UnixNano() {
			c.fail(errSilent) // half open, maybe: the next request deserves better
		}
		return c.leave(q, ctx.Err())
	case <-c.done:
		select {
		case answer = <-q.answer: // before it ended
		default:
			return c.leave(q, c.Err())
		}
	}
	err = parseAnswer(answer, parse)
	if errors.Is(err, ErrNonsense) {
		c.fail(err)
	}
	return err
}

func (c *Conn) enlist(m message, late func([]byte)) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.ids++
	q := &request{id: c.ids, text: m.sealed(), answer: make(chan []byte, 1), late: late}
	order.PutUint64(q.text[6:], uint64(q.id))
	c.waiting[q.id] = q
	return q, nil
}

// leave gives up a request.
func (c *Conn) leave(q *request, err error) error {
	unsent := !q.taken.Swap(true)
	if q.late != nil && !unsent {
		go func() {
			select {
			case answer := <-q.answer:
				q.late(answer)
			case <-c.done:
			}
		}()
		return err
	}
	c.mu.Lock()
	delete(c.waiting, q.id)
	c.mu.Unlock()
	if unsent {
		return &Unsent{err}
	}
	return err
}

// The flags of an answer. One that nobody asked for is nonsense.
const (
	flagError    = 1
	flagTopology = 2
)

// parseAnswer reads what follows the id.
func parseAnswer(b []byte, parse func(*parser)) error {
	p := &parser{b: b}
	flags := p.int16()
	if flags&^(flagError|flagTopology) != 0 {
		return ErrNonsense
	}
	if flags&flagTopology != 0 {
		p.take(8 + 4) // the members have changed: no concern of ours
	}
	if flags&flagError != 0 {
		status, text := p.int32(), p.object(typeString)
		if err := p.end(); err != nil {
			return err
		}
		return newError(status, text)
	}
	parse(p)
	return p.end()
}
