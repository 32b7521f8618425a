package ignitestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/members"
)

// member is one member and the connection to it.
type member struct {
	addr string
	opts wire.Options
	turn chan struct{} // held while the fields below are used, and while it dials
	conn *wire.Conn    // nil: none yet
	over bool          // closed
}

func newMember(addr string, opts wire.Options) *member {
	return &member{addr: addr, opts: opts, turn: make(chan struct{}, 1)}
}

var errClosed = errors.New("the store is closed")

// connect returns the connection, a new one if the last has ended.
func (m *member) connect(ctx context.Context) (*wire.Conn, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case m.over:
		return nil, errClosed
	case m.conn != nil && m.conn.Err() == nil:
		return m.conn, nil
	case m.conn != nil:
		m.conn.Close()
	}
	var err error
	m.conn, err = wire.Dial(ctx, m.addr, m.opts)
	return m.conn, err
}

func (m *member) close() error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	m.over = true
	if m.conn == nil {
		return nil
	}
	return m.conn.Close()
}

// A notSent error says that the member was not asked.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// call asks one member. If the cache is not there, because all members were down
// at once, it is made first.
func call[T any](ctx context.Context, s *Store, m *member, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	v, err := func() (none T, err error) {
		c, err := m.connect(ctx)
		if err != nil {
			return none, notSent{err}
		}
		v, err := f(ctx, c)
		if !lacksCache(err) {
			return v, err
		}
		if _, err := s.settle(ctx, c); err != nil {
			return none, notSent{err}
		}
		return f(ctx, c)
	}()
	if err != nil {
		err = fmt.Errorf("%s: %w", m.addr, err)
	}
	return v, err
}

func lacksCache(err error) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Status == wire.StatusNoCache
}

// newCache survives the death of any one member: a write is acknowledged when
// both copies have it, and reads are answered by the first.
var newCache = wire.NewCache{
	Mode: wire.Partitioned, Backups: 1, Atomicity: wire.Atomic, Sync: wire.FullSync, EagerTTL: true,
}

// settle returns the configuration of the cache, which it makes if there is none.
// errUnfit if sessions must not be kept there.
func (s *Store) settle(ctx context.Context, c *wire.Conn) (wire.Config, error) {
	id := wire.CacheID(s.cache)
	conf, err := c.CacheConfig(ctx, id)
	if lacksCache(err) {
		if err := c.CreateCache(ctx, s.cache, newCache); err != nil {
			return conf, err
		}
		conf, err = c.CacheConfig(ctx, id)
	}
	if err != nil {
		return conf, err
	}
	return conf, s.fit(conf)
}

// read asks the members in turn until one answers: what f does is the same if
// it is done twice.
func read[T any](ctx context.Context, s *Store, key string, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	return ask(ctx, s, key, f, func(error) bool { return true })
}

// write asks one member to change something, and another only if the first
// never got the request.
func write[T any](ctx context.Context, s *Store, key string, f func(context.Context, *wire.Conn) (T, error)) (T, error) {
	return ask(ctx, s, key, f, unsent)
}

func ask[T any](ctx context.Context, s *Store, key string, f func(context.Context, *wire.Conn) (T, error), goOn func(error) bool) (v T, err error) {
	first := int(uint32(wire.CacheID(key)) % uint32(len(s.members))) // each has its share
	for range 2 {
		v, err = members.Ask(ctx, s.group, first, func(ctx context.Context, i int) (T, error) {
			return call(ctx, s, s.members[i], f)
		}, func(error) bool { return false }, goOn)
		if !broken(err) || !goOn(err) || ctx.Err() != nil {
			break
		}
		// The connection had ended while it was idle; the next is fresh.
	}
	return v, err
}

// broken tells whether it was the connection that failed, after it had been
// made: no answer, and no time that has run out.
func broken(err error) bool {
	var never notSent
	var answer *wire.Error
	return err != nil && !errors.As(err, &never) && !errors.As(err, &answer) && !errors.Is(err, context.DeadlineExceeded)
}

func unsent(err error) bool {
	var never notSent
	var w *wire.Unsent
	return errors.As(err, &never) || errors.As(err, &w)
}
