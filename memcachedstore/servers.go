package memcachedstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/members"
)

// server is one server and the connections to it.
type server struct {
	addr   string
	client *memcache.Client
	slots  chan struct{} // one for each connection: the client itself opens as many as it is asked for
}

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
// contexts, so f goes on in the background and keeps its slot, until the client
// has connected and the answer is there, or the timeout of either is over.
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
	return askMembers(ctx, s, key, f, func(error) bool { return true })
}

// write asks one server to change something, and another only if the first
// never got the request.
func write[T any](ctx context.Context, s *Store, key string, f func(*memcache.Client) (T, error)) (T, error) {
	if !s.replicated {
		return call(ctx, s.servers[s.ring.pick(key)], f)
	}
	return askMembers(ctx, s, key, f, unsent)
}

// askMembers asks the members in turn, from the one on that the key belongs to.
func askMembers[T any](ctx context.Context, s *Store, key string, f func(*memcache.Client) (T, error), goOn func(error) bool) (T, error) {
	return members.Ask(ctx, s.members, s.ring.pick(key), func(ctx context.Context, i int) (T, error) {
		return call(ctx, s.servers[i], f)
	}, isAnswer, goOn)
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
// line that it did not expect, which may be a part of somebody's session.
func clean(err error) error {
	text := err.Error()
	if !strings.Contains(text, "memcache: unexpected ") {
		return err
	}
	line := text[strings.LastIndex(text, `: "`)+len(`: "`):]
	switch {
	case strings.HasPrefix(line, "SERVER_ERROR object too large"):
		return fmt.Errorf("%w: larger than the server's item_size_max", session.ErrTooLarge)
	case strings.HasPrefix(line, "SERVER_ERROR"), strings.HasPrefix(line, "CLIENT_ERROR"), strings.HasPrefix(line, "ERROR"):
		return err
	}
	return errUnreadable
}
