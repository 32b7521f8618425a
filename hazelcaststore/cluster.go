package hazelcaststore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"sync/atomic"
	"time"

	"github.com/distsession/session/hazelcaststore/internal/wire"
)

// cluster is the members, any of which answers for every key. It is a
// gridstore.Grid.
type cluster struct {
	members []*member
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
	down    atomic.Int64 // until when other members are asked first, in nanoseconds since 1970
}

// downFor is how long a member that failed is left alone; then one request
// tries it again.
const downFor = time.Second

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

// fail leaves the member alone for a while.
func (m *member) fail() { m.down.Store(time.Now().Add(downFor).UnixNano()) }

// inTurn returns the members in the order in which they are to be asked: each
// key has one that is first, and those that failed a moment ago come last.
func (c *cluster) inTurn(key string) []*member {
	n, now := len(c.members), time.Now()
	first := int(maphash.String(c.seed, key) % uint64(n))
	turn, later := make([]*member, 0, n), []*member(nil)
	for i := range n {
		m := c.members[(first+i)%n]
		// The time moves on, so that of many requests at once one tries.
		if until := m.down.Load(); until > now.UnixNano() || until > 0 && !m.down.CompareAndSwap(until, now.Add(downFor).UnixNano()) {
			later = append(later, m)
		} else {
			turn = append(turn, m)
		}
	}
	return append(turn, later...)
}

// ask asks the members in turn until one answers. A request that may have been
// done is sent to another only if again says that to do it twice is the same.
func ask[T any](ctx context.Context, c *cluster, key string, again bool, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	var none T
	var failure error
	turn := c.inTurn(key)
	for i, m := range turn {
		if err := ctx.Err(); err != nil {
			return none, errors.Join(failure, err)
		}
		v, unsent, err := askOne(ctx, m, c.timeout, len(turn)-i, again, f)
		if err == nil {
			m.down.Store(0)
			return v, nil
		}
		failure = fmt.Errorf("%s: %w", m.addr, err)
		if refused := (*wire.Error)(nil); errors.As(err, &refused) && refused.Code != wire.CodeNotActive {
			return none, failure // any other member would say the same
		}
		if !errors.Is(ctx.Err(), context.Canceled) {
			m.fail() // the caller that has gone says nothing about the member
		}
		if !unsent && !again {
			return none, failure
		}
	}
	return none, failure
}

// askOne asks one member. left is how many may be asked yet, this one included:
// each has half of the time that is left. If the connection breaks, the member
// may have closed it while it was idle; what may be sent again is.
func askOne[T any](ctx context.Context, m *member, timeout time.Duration, left int, again bool, f func(context.Context, *wire.Conn) (T, error)) (v T, unsent bool, err error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		timeout = min(timeout, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for range 2 {
		var conn *wire.Conn
		if conn, err = m.connection(ctx); err != nil {
			return v, true, err
		}
		v, err = f(ctx, conn)
		if unsent = wire.Unsent(err); err == nil || conn.Alive() || !unsent && !again {
			return v, unsent, err
		}
	}
	return v, unsent, err
}

// Get implements gridstore.Grid.
func (c *cluster) Get(ctx context.Context, key string) ([]byte, error) {
	return ask(ctx, c, key, true, func(ctx context.Context, conn *wire.Conn) ([]byte, error) { return conn.Get(ctx, key) })
}

// Add implements gridstore.Grid.
func (c *cluster) Add(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	return ask(ctx, c, key, false, func(ctx context.Context, conn *wire.Conn) (bool, error) {
		return conn.PutIfAbsent(ctx, key, value, ttl)
	})
}

// Replace implements gridstore.Grid.
func (c *cluster) Replace(ctx context.Context, key string, old, value []byte, ttl time.Duration) (bool, error) {
	return ask(ctx, c, key, false, func(ctx context.Context, conn *wire.Conn) (bool, error) {
		return conn.Replace(ctx, key, old, value, ttl)
	})
}

// Remove implements gridstore.Grid.
func (c *cluster) Remove(ctx context.Context, key string, old []byte) (bool, error) {
	return ask(ctx, c, key, false, func(ctx context.Context, conn *wire.Conn) (bool, error) { return conn.Remove(ctx, key, old) })
}

// Keys implements gridstore.Grid. It goes from partition to partition.
func (c *cluster) Keys(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		partitions, err := ask(ctx, c, "", true, func(_ context.Context, conn *wire.Conn) (int32, error) { return conn.Partitions(), nil })
		if err != nil {
			yield("", err)
			return
		}
		for p := range partitions {
			for next := []byte(nil); ; {
				page, err := ask(ctx, c, "", true, func(ctx context.Context, conn *wire.Conn) (wire.Page, error) {
					return conn.Keys(ctx, p, next)
				})
				if err != nil {
					yield("", err)
					return
				}
				for _, key := range page.Keys {
					if !yield(key, nil) {
						return
					}
				}
				if next = page.Next; next == nil {
					break
				}
			}
		}
	}
}

// close ends the connections.
func (c *cluster) close() {
	for _, m := range c.members {
		m.close()
	}
}
