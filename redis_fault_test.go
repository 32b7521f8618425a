package session_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
)

// lossyProxy stands before a server and loses answers to scripts.
type lossyProxy struct{ *faults.Proxy }

func newLossyProxy(t *testing.T, server string) lossyProxy {
	t.Helper()
	p := faults.NewProxy(t, server)
	p.Spare = func(answer []byte) bool { return bytes.Contains(answer, []byte("NOSCRIPT")) }
	return lossyProxy{p}
}

// loseNext makes the next answers to scripts vanish, after the server has run
// them, and calls then before the client notices.
func (p lossyProxy) loseNext(n int, then func()) {
	p.LoseNext(n, func(request []byte) bool { return bytes.Contains(request, []byte("evalsha")) }, then)
}

// errUnknown stands for an error that says that the outcome is not known.
var errUnknown = errors.New("unknown")

func TestRedisLostAnswer(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		proxy := newLossyProxy(t, e.client.(*redis.Client).Options().Addr)
		o := redisOptions(proxy.Addr)
		o.MaxRetries = 3
		o.MinRetryBackoff = -1
		client := redis.NewClient(o)
		defer client.Close()
		behind := session.NewRedisStore(client, &session.RedisOptions{Prefix: e.prefix, Now: e.clock.Now})
		e.create(t, "") // loads the script
		for _, tt := range []struct {
			name       string
			create     bool
			lost       int // answers in a row
			between    int // saves by others, before the retry
			want       error
			wantVerson int64
		}{
			{"update", false, 1, 0, nil, 2},
			{"update, three answers lost", false, 3, 0, nil, 2},
			{"update, one save later", false, 1, 1, nil, 3},
			{"update, two saves later", false, 1, 2, nil, 4},
			{"update, too many saves later", false, 1, 3, errUnknown, 5}, // as a conflict it would be made twice
			{"create", true, 1, 0, nil, 1},
			{"create, two saves later", true, 1, 2, nil, 3},
			{"create, too many saves later", true, 1, 3, errUnknown, 4},
		} {
			t.Run(tt.name, func(t *testing.T) {
				rec, token := e.record("ann")
				if !tt.create {
					e.save(t, rec)
					rec = e.load(t, token)
				}
				proxy.loseNext(tt.lost, func() {
					for range tt.between {
						e.save(t, e.load(t, token))
					}
				})
				_, err := behind.Save(t.Context(), rec)
				if tt.want != errUnknown {
					wantErr(t, "save", err, tt.want)
				} else if err == nil || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) {
					t.Errorf("save: %v, and nobody can know", err)
				}
				if lost := proxy.Lost(); lost != tt.lost {
					t.Fatalf("%d answers were lost", lost)
				}
				if v := e.load(t, token).Version; v != tt.wantVerson {
					t.Errorf("version %d, want %d", v, tt.wantVerson)
				}
				if tt.want != nil {
					return
				}
				// What another process saves from here is still a conflict.
				_, err = e.store.Save(t.Context(), rec)
				wantErr(t, "save again", err, session.ErrConflict)
			})
		}
	})
}

// Every call returns when its context ends, on a server that takes connections
// and never answers. The client's own timeouts are so long that only the
// context can end the calls.
func TestRedisStalled(t *testing.T) {
	for _, honours := range []bool{true, false} {
		name := "ContextTimeoutEnabled"
		if !honours {
			name = "a client without it"
		}
		t.Run(name, func(t *testing.T) {
			t.Run("half-open", func(t *testing.T) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				testStalled(t, l.Addr().String(), honours, func() {})
			})
			t.Run("stopped", func(t *testing.T) {
				server := servers.Redis(t)
				testStalled(t, server.Addr, honours, server.Pause)
			})
		})
	}
}

func testStalled(t *testing.T, addr string, honours bool, stall func()) {
	o := redisOptions(addr)
	o.ContextTimeoutEnabled = honours
	o.ReadTimeout, o.DialTimeout, o.PoolTimeout = time.Hour, time.Hour, time.Hour
	o.PoolSize = 2 // the calls wait for a connection too
	client := redis.NewClient(o)
	defer client.Close()
	for _, replicas := range []int{0, 1} {
		store := session.NewRedisStore(client, &session.RedisOptions{Replicas: replicas})
		e := &redisEnv{store: store, clock: &redisClock{}}
		stall()
		for name, call := range map[string]func(context.Context) error{
			"load": func(ctx context.Context) error { _, err := store.Load(ctx, session.NewToken()); return err },
			"save": func(ctx context.Context) error {
				rec, _ := e.record("ann")
				_, err := store.Save(ctx, rec)
				return err
			},
			"delete": func(ctx context.Context) error { return store.Delete(ctx, "x") },
			"touch":  func(ctx context.Context) error { return store.Touch(ctx, "x", time.Now(), time.Now()) },
			"list": func(ctx context.Context) (last error) {
				for _, err := range store.List(ctx, "ann") {
					last = err
				}
				return last
			},
			"delete user": func(ctx context.Context) error { _, err := store.DeleteUser(ctx, "ann", ""); return err },
			"scan": func(ctx context.Context) (last error) {
				for _, err := range store.Scan(ctx) {
					last = err
				}
				return last
			},
			"check": store.Check,
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			err := call(ctx)
			cancel()
			var timeout net.Error
			if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &timeout) && timeout.Timeout()) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A deadline that has passed leaves no answer behind for the next caller.
func TestRedisNoMixUp(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		tokens := make([]string, 16)
		for i := range tokens {
			rec, token := e.record("")
			rec.Data = []byte(token)
			e.save(t, rec)
			tokens[i] = token
		}
		var wg sync.WaitGroup
		for _, token := range tokens {
			wg.Go(func() {
				for i := range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*50*time.Microsecond)
					rec, err := e.store.Load(ctx, token)
					cancel()
					switch {
					case errors.Is(err, session.ErrNotFound):
						t.Error("a session was not found")
					case err == nil && string(rec.Data) != token:
						t.Error("the session of somebody else")
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestRedisReplicas(t *testing.T) {
	primary, replicas := servers.RedisReplicas(t, 2)
	ctx := t.Context()
	client := redis.NewClient(redisOptions(primary.Addr))
	defer client.Close()
	e := newRedisEnv(t, client)
	patience := func(d time.Duration) {
		e.store = session.NewRedisStore(client, &session.RedisOptions{Prefix: e.prefix, Replicas: 2, ReplicaTimeout: d, Now: e.clock.Now})
	}
	patience(10 * time.Second)
	client.ScriptFlush(ctx)
	rec, token := e.create(t, "ann")
	rec.Version = 1
	e.save(t, rec)
	for _, r := range replicas {
		if n := r.Client.Exists(ctx, e.key(rec.ID), e.index(t)).Val(); n != 2 {
			t.Errorf("a replica has %d of record and index", n)
		}
	}
	_, err := e.store.Save(ctx, rec)
	wantErr(t, "save an old version", err, session.ErrConflict)

	replicas[0].Pause()
	patience(500 * time.Millisecond)
	few := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), " of 2 replicas") || !strings.Contains(err.Error(), "applied on the primary") {
			t.Errorf("%s: %v", what, err)
		}
	}
	rec.Version = 2
	_, err = e.store.Save(ctx, rec)
	few("save", err)
	if v := e.load(t, token).Version; v != 3 {
		t.Errorf("version %d", v)
	}
	// The caller who tries again learns that it was done, and not that all is well.
	_, err = e.store.Save(ctx, rec)
	wantErr(t, "save again", err, session.ErrConflict)
	few("delete", e.store.Delete(ctx, rec.ID))
	few("delete again", e.store.Delete(ctx, rec.ID))
	_, err = e.store.Load(ctx, token)
	wantErr(t, "load", err, session.ErrNotFound)

	other, _ := e.record("ann")
	_, err = e.store.Save(ctx, other)
	few("create", err)
	_, err = e.store.DeleteUser(ctx, "ann", "")
	few("delete user", err)

	replicas[0].Resume()
	patience(10 * time.Second)
	if err := e.store.Delete(ctx, other.ID); err != nil {
		t.Errorf("delete again: %v", err)
	}
	if n := replicas[0].Client.Exists(ctx, e.key(rec.ID), e.key(other.ID)).Val(); n != 0 {
		t.Errorf("the replica still has %d", n)
	}
}

func TestRedisReplicasLostAnswer(t *testing.T) {
	primary, _ := servers.RedisReplicas(t, 1)
	e := onServer(t, primary.Addr)
	proxy := newLossyProxy(t, primary.Addr)
	o := redisOptions(proxy.Addr)
	o.MaxRetries = 1
	client := redis.NewClient(o)
	defer client.Close()
	behind := session.NewRedisStore(client, &session.RedisOptions{Prefix: e.prefix, Replicas: 1, ReplicaTimeout: 10 * time.Second})
	_, token := e.create(t, "ann")
	rec := e.load(t, token)
	proxy.loseNext(1, func() {})
	if _, err := behind.Save(t.Context(), rec); err != nil || proxy.Lost() != 1 {
		t.Errorf("%v, %d answers lost", err, proxy.Lost())
	}
	if v := e.load(t, token).Version; v != 2 {
		t.Errorf("version %d", v)
	}
}

// A RedisStore over a Ring cannot tell where a write went.
func TestRedisReplicasOnRing(t *testing.T) {
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": miniredis.RunT(t).Addr()}})
	defer ring.Close()
	store := session.NewRedisStore(ring, &session.RedisOptions{Replicas: 1})
	if err := store.Delete(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "*redis.Ring") {
		t.Error(err)
	}
}

// A full server that evicts nothing refuses changes; what is there can still be
// read and ended.
func TestRedisFull(t *testing.T) {
	e := onServer(t, servers.Redis(t).Addr)
	ctx := t.Context()
	rec, token := e.create(t, "ann")
	_, other := e.create(t, "ann")
	e.client.ConfigSet(ctx, "maxmemory", "1")
	full := func(what string, err error) {
		t.Helper()
		if !redis.IsOOMError(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	loaded := e.load(t, token)
	_, err := e.store.Save(ctx, loaded)
	full("save", err)
	full("touch", e.store.Touch(ctx, rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)))
	another, _ := e.record("ann")
	_, err = e.store.Save(ctx, another)
	full("create", err)
	if err := e.store.Delete(ctx, session.ID(other)); err != nil {
		t.Errorf("delete: %v", err)
	}
	if n, err := e.store.DeleteUser(ctx, "ann", ""); n != 1 || err != nil {
		t.Errorf("delete user: %d, %v", n, err)
	}
}

// The answer to a sign-in whose end of the old session too few replicas know of
// is a failure, but the user is signed in: the old token is dead.
func TestRedisReplicasClaim(t *testing.T) {
	primary, replicas := servers.RedisReplicas(t, 1)
	client := redis.NewClient(redisOptions(primary.Addr))
	defer client.Close()
	store := session.NewRedisStore(client, &session.RedisOptions{Replicas: 1, ReplicaTimeout: 400 * time.Millisecond})
	pausing := &pausesReplica{RedisStore: store, pause: replicas[0].Pause}
	m := newManager(t, pausing, &session.Options{Timeout: 10 * time.Second})
	_, old := do(m, "", sets(keyCart, "tea"))
	pausing.armed = true
	res, cookie := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("ann") })
	if res.StatusCode != http.StatusServiceUnavailable || cookie == old {
		t.Errorf("status %d, a new token: %v; want 503 and the token", res.StatusCode, cookie != old)
	}
	s, err := m.Session(t.Context(), cookie)
	if err != nil || s.User() != "ann" {
		t.Errorf("the new token opens %q, %v", s.User(), err)
	}
	if s, err := m.Session(t.Context(), old); err != nil || !s.Replaced() {
		t.Errorf("the old token: %v", err)
	}
}

// pausesReplica stops the replica just before a marker is saved.
type pausesReplica struct {
	*session.RedisStore
	pause func()
	armed bool
}

func (p *pausesReplica) Save(ctx context.Context, rec *session.Record) (string, error) {
	if p.armed && rec.Replaced {
		p.pause()
	}
	return p.RedisStore.Save(ctx, rec)
}
