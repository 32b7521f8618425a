package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// redisEnv is a Redis to test against: miniredis always, and a real server
// where one is installed.
type redisEnv struct {
	client redis.UniversalClient
	store  *session.RedisStore
	clock  *redisClock
	prefix string
}

// redisClock is the store's clock. The server has its own.
type redisClock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *redisClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *redisClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func newRedisEnv(t *testing.T, client redis.UniversalClient) *redisEnv {
	t.Helper()
	e := &redisEnv{client: client, clock: &redisClock{}, prefix: session.NewToken()[:8] + ":"}
	e.store = session.NewRedisStore(client, &session.RedisOptions{Prefix: e.prefix, Now: e.clock.Now})
	return e
}

func onMiniredis(t *testing.T) *redisEnv {
	t.Helper()
	client := redis.NewClient(redisOptions(miniredis.RunT(t).Addr()))
	t.Cleanup(func() { client.Close() })
	return newRedisEnv(t, client)
}

func onServer(t *testing.T, addr string) *redisEnv {
	t.Helper()
	client := redis.NewClient(redisOptions(addr))
	t.Cleanup(func() { client.Close() })
	return newRedisEnv(t, client)
}

func redisOptions(addr string) *redis.Options {
	return &redis.Options{
		Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// eachRedis runs f on every kind of server that there is.
func eachRedis(t *testing.T, f func(t *testing.T, e *redisEnv)) {
	t.Run("miniredis", func(t *testing.T) { f(t, onMiniredis(t)) })
	t.Run("server", func(t *testing.T) { f(t, onServer(t, servers.Redis(t).Addr)) })
}

// record returns a new record and the token that stands for it.
func (e *redisEnv) record(user string) (*session.Record, string) {
	token := session.NewToken()
	now := e.clock.Now()
	return &session.Record{
		ID: session.ID(token), User: user, Device: "Firefox on Linux",
		Created: now, Seen: now, Expires: now.Add(30 * time.Minute), Deadline: now.Add(12 * time.Hour),
		Data: []byte(`{"n":1}`),
	}, token
}

// create saves a new record.
func (e *redisEnv) create(t *testing.T, user string) (*session.Record, string) {
	t.Helper()
	rec, token := e.record(user)
	e.save(t, rec)
	return rec, token
}

func (e *redisEnv) save(t *testing.T, rec *session.Record) {
	t.Helper()
	if token, err := e.store.Save(t.Context(), rec); err != nil || token != "" {
		t.Fatalf("save: %q, %v", token, err)
	}
}

func (e *redisEnv) load(t *testing.T, token string) *session.Record {
	t.Helper()
	rec, err := e.store.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return rec
}

func (e *redisEnv) key(id string) string { return e.prefix + id }

// index is the key of the only user index there is.
func (e *redisEnv) index(t *testing.T) string {
	t.Helper()
	keys := e.keys(t, e.prefix+"user:*")
	if len(keys) != 1 {
		t.Fatalf("index keys: %q", keys)
	}
	return keys[0]
}

func (e *redisEnv) keys(t *testing.T, match string) []string {
	t.Helper()
	var keys []string
	for it := e.client.Scan(t.Context(), 0, match, 100).Iterator(); it.Next(t.Context()); {
		keys = append(keys, it.Val())
	}
	return keys
}

func (e *redisEnv) list(t *testing.T, user string) []string {
	t.Helper()
	ids := []string{}
	for info, err := range e.store.List(t.Context(), user) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	slices.Sort(ids)
	return ids
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestRedisSave(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		rec, token := e.create(t, "ann")
		got := e.load(t, token)
		if got.ID != rec.ID || got.User != "ann" || got.Device != rec.Device || got.Version != 1 || string(got.Data) != `{"n":1}` ||
			got.Expires.UnixMilli() != rec.Expires.UnixMilli() || got.Deadline.UnixMilli() != rec.Deadline.UnixMilli() {
			t.Fatalf("loaded %+v, saved %+v", got, rec)
		}
		_, err := e.store.Save(ctx, rec)
		wantErr(t, "create again", err, session.ErrConflict)

		got.Data = []byte(`{"n":2}`)
		e.save(t, got)
		_, err = e.store.Save(ctx, got)
		wantErr(t, "save an old version", err, session.ErrConflict)
		if v := e.load(t, token); v.Version != 2 || string(v.Data) != `{"n":2}` {
			t.Errorf("loaded version %d, %s", v.Version, v.Data)
		}
		if err := e.store.Delete(ctx, rec.ID); err != nil {
			t.Fatal(err)
		}
		got.Version = 2
		_, err = e.store.Save(ctx, got)
		wantErr(t, "save after delete", err, session.ErrNotFound)
		wantErr(t, "touch after delete", e.store.Touch(ctx, rec.ID, rec.Seen, rec.Expires), session.ErrNotFound)
		if err := e.store.Delete(ctx, rec.ID); err != nil {
			t.Errorf("delete nothing: %v", err)
		}
	})
}

func TestRedisExpiry(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		t.Run("cut to the deadline", func(t *testing.T) {
			rec, token := e.record("")
			rec.Deadline = rec.Created.Add(time.Minute)
			e.save(t, rec)
			if got := e.load(t, token); got.Expires.UnixMilli() != rec.Deadline.UnixMilli() {
				t.Errorf("expires %v, deadline %v", got.Expires, rec.Deadline)
			}
			if ttl := e.client.PTTL(ctx, e.key(rec.ID)).Val(); ttl <= 0 || ttl > time.Minute {
				t.Errorf("TTL %v", ttl)
			}
		})
		t.Run("by this clock, whatever the server keeps", func(t *testing.T) {
			rec, token := e.create(t, "")
			e.client.Persist(ctx, e.key(rec.ID))
			e.clock.Advance(30*time.Minute - time.Second)
			old := e.load(t, token)
			e.clock.Advance(2 * time.Second)
			_, err := e.store.Load(ctx, token)
			wantErr(t, "load", err, session.ErrNotFound)
			old.Expires = old.Expires.Add(time.Hour)
			_, err = e.store.Save(ctx, old)
			wantErr(t, "save", err, session.ErrNotFound)
			wantErr(t, "touch", e.store.Touch(ctx, rec.ID, e.clock.Now(), e.clock.Now().Add(time.Hour)), session.ErrNotFound)
			for range e.store.Scan(ctx) {
				t.Error("scan yields it")
			}
			rec.Created = e.clock.Now()
			rec.Expires = e.clock.Now().Add(time.Hour)
			e.save(t, rec) // a new one may take its place
			if v := e.load(t, token); v.Version != 1 {
				t.Errorf("version %d", v.Version)
			}
		})
		t.Run("saved as expired", func(t *testing.T) {
			rec, token := e.record("")
			rec.Expires = rec.Created.Add(-time.Second)
			e.save(t, rec)
			_, err := e.store.Load(ctx, token)
			wantErr(t, "created", err, session.ErrNotFound)

			rec, token = e.create(t, "")
			rec.Version = 1
			rec.Expires = rec.Created
			e.save(t, rec)
			_, err = e.store.Load(ctx, token)
			wantErr(t, "updated", err, session.ErrNotFound)
		})
	})
}

func TestRedisTouch(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		rec, token := e.create(t, "ann")
		at := func(d time.Duration) time.Time { return rec.Created.Add(d) }
		for _, tt := range []struct {
			seen, expires         time.Duration
			wantSeen, wantExpires time.Duration
			why                   string
		}{
			{time.Minute, 31 * time.Minute, time.Minute, 31 * time.Minute, "forward"},
			{-time.Minute, time.Minute, time.Minute, 31 * time.Minute, "not back"},
			{2 * time.Minute, time.Minute, 2 * time.Minute, 31 * time.Minute, "each for itself"},
			{time.Minute, 32 * time.Minute, 2 * time.Minute, 32 * time.Minute, "each for itself"},
			{time.Hour, 24 * time.Hour, time.Hour, 12 * time.Hour, "not past the deadline"},
		} {
			if err := e.store.Touch(ctx, rec.ID, at(tt.seen), at(tt.expires)); err != nil {
				t.Fatal(err)
			}
			got := e.load(t, token)
			if got.Seen.UnixMilli() != at(tt.wantSeen).UnixMilli() || got.Expires.UnixMilli() != at(tt.wantExpires).UnixMilli() {
				t.Errorf("%s: seen %v, expires %v", tt.why, got.Seen.Sub(rec.Created), got.Expires.Sub(rec.Created))
			}
			if got.Version != 1 || string(got.Data) != `{"n":1}` {
				t.Errorf("%s: version %d, data %s", tt.why, got.Version, got.Data)
			}
			if ttl := e.client.PTTL(ctx, e.key(rec.ID)).Val(); (ttl - tt.wantExpires).Abs() > time.Minute {
				t.Errorf("%s: TTL %v", tt.why, ttl)
			}
		}
		rec.Version = 1
		e.save(t, rec) // what was loaded before the touches can still be saved
	})
}

// A key that holds something else is no session, and is left alone.
func TestRedisForeignKeys(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		rec, token := e.record("ann")
		good, err := session.EncodeRecord(rec, session.NewTrail())
		if err != nil {
			t.Fatal(err)
		}
		key := e.key(rec.ID)
		for _, tt := range []struct {
			why   string
			plant func() error
		}{
			{"a hash", func() error { return e.client.HSet(ctx, key, "a", 1).Err() }},
			{"a list", func() error { return e.client.RPush(ctx, key, "a").Err() }},
			{"a number", func() error { return e.client.Set(ctx, key, 7, 0).Err() }},
			{"text", func() error { return e.client.Set(ctx, key, "s1 garbage\n{}", 0).Err() }},
			{"a long line", func() error { return e.client.Set(ctx, key, strings.Repeat("s1 ", 4096), 0).Err() }},
			{"half a record", func() error { return e.client.Set(ctx, key, good[:60], 0).Err() }},
		} {
			t.Run(tt.why, func(t *testing.T) {
				if err := tt.plant(); err != nil {
					t.Fatal(err)
				}
				before := e.client.Dump(ctx, key).Val()
				_, err := e.store.Load(ctx, token)
				wantErr(t, "load", err, session.ErrNotFound)
				if err == session.ErrNotFound {
					t.Error("load: the reason is not told")
				}
				_, err = e.store.Save(ctx, rec)
				wantErr(t, "create", err, session.ErrConflict)
				up := *rec
				up.Version = 1
				_, err = e.store.Save(ctx, &up)
				wantErr(t, "update", err, session.ErrNotFound)
				wantErr(t, "touch", e.store.Touch(ctx, rec.ID, rec.Seen, rec.Expires), session.ErrNotFound)
				for rec, err := range e.store.Scan(ctx) {
					t.Errorf("scan yields %v, %v", rec, err)
				}
				if n, err := e.store.DeleteUser(ctx, "ann", ""); n != 0 || err != nil {
					t.Errorf("delete user: %d, %v", n, err)
				}
				if e.client.Dump(ctx, key).Val() != before {
					t.Error("the key was changed")
				}
				e.client.Del(ctx, key)
			})
		}
	})
}

func TestRedisMalformedTokens(t *testing.T) {
	// No server: what is refused by its shape costs no I/O.
	client := redis.NewClient(redisOptions("127.0.0.1:1"))
	defer client.Close()
	store := session.NewRedisStore(client, nil)
	good := session.NewToken()
	for _, token := range []string{"", "a", good[1:], good + "A", good[:42] + "=", good[:42] + "*", good[:42] + "\n", "user:" + good[:38], strings.Repeat("A", 1<<20)} {
		if _, err := store.Load(t.Context(), token); err != session.ErrNotFound {
			t.Errorf("%.50q: %v", token, err)
		}
	}
	if _, err := store.Load(t.Context(), good); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("a server that is down: %v", err)
	}
}

// An ID may come from a form ("sign out there"): none may reach the index.
func TestRedisReservedIDs(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		_, token := e.create(t, "ann")
		id := strings.TrimPrefix(e.index(t), e.prefix)
		if err := e.store.Delete(ctx, id); err != nil {
			t.Error(err)
		}
		wantErr(t, "touch", e.store.Touch(ctx, id, time.Now(), time.Now()), session.ErrNotFound)
		if _, err := e.store.Save(ctx, &session.Record{ID: id, Expires: e.clock.Now().Add(time.Hour)}); err == nil {
			t.Error("saved")
		}
		if ids := e.list(t, "ann"); !slices.Equal(ids, []string{session.ID(token)}) {
			t.Errorf("list: %q", ids)
		}
	})
}

func TestRedisConcurrentUpdates(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		rec, token := e.record("")
		rec.Data = []byte("0")
		e.save(t, rec)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for done := 0; done < 25; {
					rec, err := e.store.Load(ctx, token)
					if err != nil {
						t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(rec.Data))
					rec.Data = []byte(strconv.Itoa(n + 1))
					switch _, err := e.store.Save(ctx, rec); {
					case err == nil:
						done++
					case !errors.Is(err, session.ErrConflict):
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if rec := e.load(t, token); string(rec.Data) != "200" || rec.Version != 201 {
			t.Errorf("%s in version %d", rec.Data, rec.Version)
		}
	})
}

func TestRedisScripts(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		flush := func() {
			t.Helper()
			if err := e.client.ScriptFlush(ctx).Err(); err != nil {
				t.Fatal(err)
			}
		}
		flush() // as after a failover
		rec, token := e.create(t, "ann")
		flush()
		if err := e.store.Touch(ctx, rec.ID, rec.Seen, rec.Expires); err != nil {
			t.Error(err)
		}
		flush()
		rec = e.load(t, token)
		e.save(t, rec)
		flush()
		if n, err := e.store.DeleteUser(ctx, "ann", ""); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

func TestRedisLongNames(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		for _, user := range []string{"a b\nc", "ü@example.org", strings.Repeat("x", 2000), "%41", "-", "*"} {
			rec, token := e.create(t, user)
			rec.Device = strings.Repeat("ö", 300)
			rec.Version = 1
			e.save(t, rec)
			if err := e.store.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
				t.Error(err)
			}
			if got := e.load(t, token); got.User != user || got.Device != rec.Device || !got.Seen.After(rec.Seen) {
				t.Errorf("loaded %.20q, %.20q", got.User, got.Device)
			}
			if ids := e.list(t, user); len(ids) != 1 {
				t.Errorf("%.20q: list %q", user, ids)
			}
			if n, err := e.store.DeleteUser(t.Context(), user, ""); n != 1 || err != nil {
				t.Errorf("%.20q: %d, %v", user, n, err)
			}
		}
	})
}

func TestRedisScan(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		want := map[string]bool{}
		for i := range 250 {
			rec, _ := e.create(t, []string{"", "ann"}[i%2])
			want[rec.ID] = true
		}
		marker, _ := e.record("")
		marker.Replaced = true
		e.save(t, marker)
		other := session.NewRedisStore(e.client, &session.RedisOptions{Prefix: "other*:"})
		rec, _ := e.record("")
		if _, err := other.Save(ctx, rec); err != nil {
			t.Fatal(err)
		}
		for rec, err := range e.store.Scan(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if !want[rec.ID] {
				t.Errorf("%s: not expected, or twice", rec.ID)
			}
			delete(want, rec.ID)
		}
		if len(want) != 0 {
			t.Errorf("%d were not yielded", len(want))
		}
		for range e.store.Scan(ctx) {
			break
		}
		n := 0
		for range other.Scan(ctx) {
			n++
		}
		if n != 1 {
			t.Errorf("the other prefix: %d", n)
		}
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		var last error
		for _, err := range e.store.Scan(ctx) {
			last = err
		}
		wantErr(t, "cancelled", last, context.Canceled)
	})
}

func ExampleNewRedisStore() {
	client := redis.NewClient(&redis.Options{
		Addr:                  "localhost:6379",
		ContextTimeoutEnabled: true, // or a request waits for the client's own timeouts
		ReadTimeout:           time.Second,
	})
	defer client.Close()
	store := session.NewRedisStore(client, nil)
	_, err := store.Load(context.Background(), "not a token")
	fmt.Println(err)
	// Output: session: not found
}
