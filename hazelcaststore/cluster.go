package hazelcaststore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/members"
)

// cluster is the members, any of which answers for every key.
type cluster struct {
	members []*member
	group   *members.Group
	timeout time.Duration
	seed    maphash.Seed
}

// member is one member and the connection to it.
type member struct {
	addr    string
	opts    wire.Options
	timeout time.Duration
	turn    chan struct{} // who looks after the connection
	conn    *wire.Conn    // nil: none; under turn
	closed  bool          // under turn
	live    atomic.Pointer[wire.Conn]
}

func newMember(addr string, opts wire.Options, timeout time.Duration) *member {
	return &member{addr: addr, opts: opts, timeout: timeout, turn: make(chan struct{}, 1)}
}

// connection returns a connection that lives, a new one if need be.
func (m *member) connection(ctx context.Context) (*wire.Conn, error) {
	if c := m.live.Load(); c != nil && c.Alive() {
		return c, nil
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.closed {
		return nil, errClosed
	}
	if m.conn != nil {
		if m.conn.Alive() {
			return m.conn, nil // others waited for it too
		}
		m.conn.Close()
		m.conn = nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	c, err := wire.Dial(ctx, m.addr, m.opts)
	if err != nil {
		return nil, err
	}
	m.conn = c
	m.live.Store(c)
	return c, nil
}

var errClosed = errors.New("the store is closed")

func (m *member) close() {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.closed = true
	if m.conn != nil {
		m.conn.Close()
	}
}

// A notSent error says that the member was not asked.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

func unsent(err error) bool {
	var never notSent
	return errors.As(err, &never) || wire.Unsent(err)
}

// read asks the members in turn until one answers: what f does is the same if
// it is done twice.
func read[T any](ctx context.Context, c *cluster, key string, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	return ask(ctx, c, key, f, func(error) bool { return true })
}

// write asks one member to change something, and another only if the first
// never got the request.
func write[T any](ctx context.Context, c *cluster, key string, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	return ask(ctx, c, key, f, unsent)
}

// ask begins with the member that is first for the key.
func ask[T any](ctx context.Context, c *cluster, key string, f func(context.Context, *wire.Conn) (T, error), goOn func(error) bool) (T, error) {
	first := int(maphash.String(c.seed, key) % uint64(len(c.members)))
	return members.Ask(ctx, c.group, first, func(ctx context.Context, i int) (T, error) {
		m := c.members[i]
		v, err := call(ctx, m, c.timeout, f, goOn)
		if err != nil {
			err = fmt.Errorf("%s: %w", m.addr, err)
		}
		return v, err
	}, refused, goOn)
}

// refused tells whether an error is a member's answer, which any other would
// give as well.
func refused(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Code != wire.CodeNotActive
}

// call asks one member. If the connection breaks, the member may have closed it
// while it was idle; what may be sent again is.
func call[T any](ctx context.Context, m *member, timeout time.Duration, f func(context.Context, *wire.Conn) (T, error), again func(error) bool) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for range 2 {
		var conn *wire.Conn
		if conn, err = m.connection(ctx); err != nil {
			return v, notSent{err}
		}
		v, err = f(ctx, conn)
		if err == nil || conn.Alive() || !again(err) {
			return v, err
		}
	}
	return v, err
}

// close ends the connections.
func (c *cluster) close() {
	for _, m := range c.members {
		m.close()
	}
}
