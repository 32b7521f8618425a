package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// within calls f and returns at ctx's end at the latest. A client without
// ContextTimeoutEnabled reads on until its own timeouts, so f goes on in the
// background.
func within[T any](ctx context.Context, s *RedisStore, f func() (T, error)) (T, error) {
	if s.deadlines || ctx.Done() == nil {
		return f()
	}
	type answer struct {
		v   T
		err error
	}
	c := make(chan answer, 1)
	go func() {
		v, err := f()
		c <- answer{v, err}
	}()
	select {
	case a := <-c:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (s *RedisStore) get(ctx context.Context, key string) ([]byte, error) {
	if s.deadlines {
		return s.client.Get(ctx, key).Bytes()
	}
	return within(ctx, s, func() ([]byte, error) { return s.client.Get(ctx, key).Bytes() })
}

// run runs a script that answers with a number.
func (s *RedisStore) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (int64, error) {
	if s.deadlines {
		return s.eval(ctx, script, keys, args)
	}
	return within(ctx, s, func() (int64, error) { return s.eval(ctx, script, keys, args) })
}

func (s *RedisStore) eval(ctx context.Context, script *redis.Script, keys []string, args []any) (int64, error) {
	code, err := script.EvalSha(ctx, s.client, keys, args...).Int64()
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		uncount(args)
		return script.Eval(ctx, s.client, keys, args...).Int64()
	}
	return code, err
}

// sent is an argument that counts how often the client writes it to a server. A
// client sends a command whose answer was lost again by itself, and says nothing.
type sent struct {
	text  []byte
	times atomic.Int32
}

// MarshalBinary implements encoding.BinaryMarshaler, which the client calls when
// it writes.
func (a *sent) MarshalBinary() ([]byte, error) {
	a.times.Add(1)
	return a.text, nil
}

// again tells whether an earlier answer may have been lost.
func (a *sent) again() bool { return a.times.Load() > 1 }

// judge tells a conflict that is plain from one in which the write may have been
// done before its answer was lost.
func (a *sent) judge(code int64) int64 {
	if code == redisFar && !a.again() {
		return redisConflict
	}
	return code
}

// errOutcome: to call it a conflict would have the change made twice.
var errOutcome = errors.New("an answer was lost, and others have changed the session so often since that nobody can tell whether this change was made")

// uncount takes back one time, whose answer has come: nothing was done.
func uncount(args []any) {
	for _, arg := range args {
		if a, ok := arg.(*sent); ok {
			a.times.Add(-1)
		}
	}
}

// write runs a script that writes one record, and waits for the replicas.
func (s *RedisStore) write(ctx context.Context, script *redis.Script, keys []string, args ...any) (int64, error) {
	if s.opts.Replicas <= 0 {
		return s.run(ctx, script, keys, args...)
	}
	return within(ctx, s, func() (int64, error) {
		w := replicated{script: script, keys: keys, args: args, n: s.opts.Replicas, timeout: s.opts.ReplicaTimeout}
		switch c := s.client.(type) {
		case *redis.Client:
			return w.on(ctx, c, false)
		case *redis.ClusterClient:
			return s.writeCluster(ctx, w)
		default:
			return 0, fmt.Errorf("the option Replicas takes a *redis.Client or a *redis.ClusterClient, not a %T", c)
		}
	})
}

// replicated is a script and the WAIT that follows it.
type replicated struct {
	script  *redis.Script
	keys    []string
	args    []any
	n       int
	timeout time.Duration
}

// tooFewError: the write is done, but fewer replicas than asked for have it.
type tooFewError struct {
	got, want int64
	wait      time.Duration
}

func (e *tooFewError) Error() string {
	return fmt.Sprintf("%d of %d replicas acknowledged within %v; the change is applied on the primary, and a failover may lose it",
		e.got, e.want, e.wait)
}

// on runs script and WAIT on one connection of node: WAIT counts the replicas
// that have what this connection wrote. (If it finds that an earlier attempt
// wrote already, Redis waits for the replication offset of this moment, which
// covers that too.)
func (w *replicated) on(ctx context.Context, node *redis.Client, asking bool) (int64, error) {
	wait := w.timeout
	if end, ok := ctx.Deadline(); ok {
		// The answer has to arrive before ctx ends; WAIT 0 would wait for ever.
		wait = max(min(wait, time.Until(end)*9/10), time.Millisecond)
	}
	code, acked, err := w.try(ctx, node, asking, (*redis.Script).EvalSha, wait)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		uncount(w.args)
		code, acked, err = w.try(ctx, node, asking, (*redis.Script).Eval, wait)
	}
	switch {
	case err != nil:
		return 0, err
	case acked < int64(w.n):
		return 0, &tooFewError{acked, int64(w.n), wait.Round(time.Millisecond)}
	}
	return code, nil
}

type evalFunc func(*redis.Script, context.Context, redis.Scripter, []string, ...any) *redis.Cmd

func (w *replicated) try(ctx context.Context, node *redis.Client, asking bool, eval evalFunc, wait time.Duration) (code, acked int64, err error) {
	pipe := node.Pipeline()
	if asking {
		pipe.Do(ctx, "asking")
	}
	done := eval(w.script, ctx, pipe, w.keys, w.args...)
	count := pipe.Do(ctx, "wait", w.n, wait.Milliseconds())
	if _, err := pipe.Exec(ctx); err != nil && done.Err() == nil && count.Err() == nil {
		return 0, 0, err
	}
	if code, err = done.Int64(); err != nil {
		return 0, 0, err
	}
	if code <= 0 && (w.script == saveScript || w.script == updateScript) {
		return code, int64(w.n), nil // nothing was written
	}
	acked, err = count.Int64()
	return code, acked, err
}

// writeCluster finds the server of the key, and finds it again when the key
// has moved or the server is gone: WAIT has no key, so a ClusterClient would
// send it to any server.
func (s *RedisStore) writeCluster(ctx context.Context, w replicated) (int64, error) {
	var node *redis.Client
	var asking bool
	var code int64
	var err error
	pause := 5 * time.Millisecond
	for range 20 {
		if node == nil {
			asking = false
			node, err = s.cluster.MasterForKey(ctx, w.keys[0])
		}
		if node != nil {
			code, err = w.on(ctx, node, asking)
		}
		node, asking = nil, false
		if err == nil || ctx.Err() != nil {
			return code, err
		}
		if errors.Is(err, redis.ErrClosed) {
			s.nodes.Clear() // the client has dropped a server that left
		}
		if addr, ok := redis.IsAskError(err); ok {
			if node = s.node(ctx, w.keys[0], addr); node != nil {
				asking = true
				continue
			}
		}
		if addr, ok := redis.IsMovedError(err); ok {
			s.cluster.ReloadState(ctx)
			if node = s.node(ctx, w.keys[0], addr); node != nil {
				continue
			}
		}
		if !redisPasses(err) {
			return 0, err
		}
		s.cluster.ReloadState(ctx)
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(pause):
			pause = min(2*pause, 250*time.Millisecond)
		}
	}
	return 0, err
}

// node returns the client of the server at addr, which a redirection named;
// nil if it cannot be found.
func (s *RedisStore) node(ctx context.Context, key, addr string) *redis.Client {
	if i := strings.LastIndexByte(addr, ':'); i > 0 && addr[0] != '[' {
		addr = net.JoinHostPort(addr[:i], addr[i+1:]) // IPv6 comes without brackets
	}
	find := func() *redis.Client {
		c, _ := s.nodes.Load(addr)
		node, _ := c.(*redis.Client)
		return node
	}
	if node := find(); node != nil {
		return node
	}
	// One that the client knew before OnNewNode was set. The error is about
	// servers that are down.
	_ = s.cluster.ForEachShard(ctx, func(_ context.Context, c *redis.Client) error {
		s.nodes.Store(c.Options().Addr, c)
		return nil
	})
	if node := find(); node != nil {
		return node
	}
	// One that has no slots yet: the client follows the redirection of this
	// read, and OnNewNode tells.
	s.cluster.Exists(ctx, key)
	return find()
}

// redisPasses tells whether an error is worth another try: the connection
// broke, or the server says that it is not ready.
func redisPasses(err error) bool {
	var answer redis.Error
	var few *tooFewError
	switch {
	case errors.As(err, &few):
		return false
	case !errors.As(err, &answer):
		return true
	}
	return redis.IsReadOnlyError(err) || redis.IsClusterDownError(err) || redis.IsTryAgainError(err) ||
		redis.IsLoadingError(err) || redis.IsMasterDownError(err) || redis.IsMaxClientsError(err)
}
