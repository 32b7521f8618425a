package memcachedstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/distsession/session"
)

// server is one server and the connections to it.
type server struct {
	addr   string
	client *memcache.Client
	slots  chan struct{} // one for each connection: the client itself opens as many as it is asked for
	down   atomic.Int64  // until when other members are asked first, in nanoseconds since 1970
}

// downFor is how long a member that failed is left alone; then one request
// tries it again.
const downFor = time.Second

func newServer(addr string, d *dialer, timeout time.Duration, connections int) *server {
	s := &server{addr: addr, slots: make(chan struct{}, connections)}
	s.client = memcache.NewFromSelector((*onlyServer)(s))
	s.client.DialContext = d.dial
	s.client.Timeout = timeout
	s.client.MaxIdleConns = connections
	return s
}

// onlyServer is the client's selector and the server's address. The name is
// looked up at each dial, so that a server may move.
type onlyServer server

func (s *onlyServer) PickServer(string) (net.Addr, error) { return s, nil }
func (s *onlyServer) Each(f func(net.Addr) error) error   { return f(s) }
func (s *onlyServer) Network() string                     { return "tcp" }
func (s *onlyServer) String() string                      { return s.addr }

// call runs f, and returns at ctx's end at the latest. The client knows no
// contexts, so f goes on in the background until the client's timeout, and
// keeps its slot.
func call[T any](ctx context.Context, s *server, f func(*memcache.Client) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return none, fmt.Errorf("%s: all connections are busy: %w", s.addr, ctx.Err())
	}
	type answer struct {
		v   T
		err error
	}
	c := make(chan answer, 1)
	go func() {
		defer func() { <-s.slots }()
		for {
			v, err := f(s.client)
			if unsent := new(unsentError); errors.As(err, &unsent) && unsent.stale {
				continue // that connection is gone; the next is fresh, at last
			}
			c <- answer{v, err}
			return
		}
	}()
	select {
	case a := <-c:
		if a.err != nil && !isAnswer(a.err) {
			a.err = fmt.Errorf("%s: %w", s.addr, clean(a.err))
		}
		return a.v, a.err
	case <-ctx.Done():
		return none, fmt.Errorf("%s: %w", s.addr, ctx.Err())
	}
}

// read asks a server that may answer for the key. It may be asked again: what
// f does is the same if it is done twice.
func read[T any](ctx context.Context, s *Store, key string, f func(*memcache.Client) (T, error)) (v T, err error) {
	if !s.replicated {
		for range 2 {
			v, err = call(ctx, s.servers[s.ring.pick(key)], f)
			if err == nil || isAnswer(err) || timedOut(err) || unsent(err) {
				break
			}
		}
		return v, err
	}
	return members(ctx, s, key, f, func(error) bool { return true })
}

// write asks one server to change something, and another only if the first
// never got the request.
func write[T any](ctx context.Context, s *Store, key string, f func(*memcache.Client) (T, error)) (T, error) {
	if !s.replicated {
		return call(ctx, s.servers[s.ring.pick(key)], f)
	}
	return members(ctx, s, key, f, unsent)
}

// members asks the members in turn, those that failed a moment ago last, until
// one answers or an error is final.
func members[T any](ctx context.Context, s *Store, key string, f func(*memcache.Client) (T, error), goOn func(error) bool) (v T, err error) {
	first, now := s.ring.pick(key), time.Now()
	var later []*server
	var turn []*server
	for i := range s.servers {
		m := s.servers[(first+i)%len(s.servers)]
		// The time moves on, so that of many requests at once one tries.
		if until := m.down.Load(); until > now.UnixNano() || until > 0 && !m.down.CompareAndSwap(until, now.Add(downFor).UnixNano()) {
			later = append(later, m)
		} else {
			turn = append(turn, m)
		}
	}
	turn = append(turn, later...)
	for i, m := range turn {
		v, err = ask(ctx, m, f, len(turn)-i)
		if err == nil || isAnswer(err) {
			if m.down.Load() != 0 {
				m.down.Store(0)
			}
			return v, err
		}
		if ctx.Err() != nil && !timedOut(err) {
			return v, err // the caller has gone: that says nothing about the member
		}
		m.down.Store(time.Now().Add(downFor).UnixNano())
		if ctx.Err() != nil || !goOn(err) {
			return v, err
		}
	}
	return v, err
}

// ask gives a member half of the time that is left, so that another can still
// be asked.
func ask[T any](ctx context.Context, m *server, f func(*memcache.Client) (T, error), left int) (T, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	return call(ctx, m, f)
}

// isAnswer tells whether an error is what the protocol has for "no".
func isAnswer(err error) bool {
	return errors.Is(err, memcache.ErrCacheMiss) || errors.Is(err, memcache.ErrCASConflict) || errors.Is(err, memcache.ErrNotStored) ||
		errors.Is(err, session.ErrTooLarge)
}

func unsent(err error) bool {
	var e *unsentError
	return errors.As(err, &e)
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// clean takes out of a client's error what must not be shown: it repeats the
// line that it could not read, which may be a part of somebody's session.
func clean(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "object too large for cache"):
		return fmt.Errorf("%w: larger than the server's item_size_max", session.ErrTooLarge)
	case strings.Contains(text, "unexpected line in get response"):
		if _, line, _ := strings.Cut(text, `"`); strings.HasPrefix(line, "SERVER_ERROR") || strings.HasPrefix(line, "CLIENT_ERROR") || strings.HasPrefix(line, "ERROR") {
			return err
		}
		return errors.New("the server's answer to get cannot be read")
	}
	return err
}
