package session_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/redis/go-redis/v9"
)

func TestRedisIndex(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) { testRedisIndex(t, e) })
}

// On a Cluster, and behind a proxy, index and record are written apart.
func TestRedisIndexApart(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		e.client.AddHook(oneKeyOnly{})
		testRedisIndex(t, e)
	})
}

// oneKeyOnly answers as a proxy in front of several servers does.
type oneKeyOnly struct{}

func (oneKeyOnly) DialHook(next redis.DialHook) redis.DialHook { return next }
func (oneKeyOnly) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (oneKeyOnly) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if a := cmd.Args(); cmd.Name() == "evalsha" && a[2] == 2 {
			cmd.SetErr(redis.ErrCrossSlot)
			return redis.ErrCrossSlot
		}
		return next(ctx, cmd)
	}
}

func testRedisIndex(t *testing.T, e *redisEnv) {
	ctx := t.Context()
	a, _ := e.create(t, "ann")
	b, tokenB := e.create(t, "ann")
	bob, tokenBob := e.create(t, "bob")
	e.create(t, "") // anonymous: in no list
	want := []string{a.ID, b.ID}
	slices.Sort(want)
	check := func(user string, want ...string) {
		t.Helper()
		slices.Sort(want)
		if got := e.list(t, user); !slices.Equal(got, want) {
			t.Errorf("list %q: %q, want %q", user, got, want)
		}
	}
	count := func(user, keep string, want int) {
		t.Helper()
		if n, err := e.store.DeleteUser(ctx, user, keep); n != want || err != nil {
			t.Errorf("delete %q: %d, %v, want %d", user, n, err, want)
		}
	}
	check("ann", a.ID, b.ID)
	check("", []string{}...)
	count("", "", 0)
	count("nobody", "", 0)

	// A record that changes hands is in the new user's list only, and not the
	// old user's to end.
	moved := e.load(t, tokenB)
	moved.User = "bob"
	e.save(t, moved)
	check("ann", a.ID)
	check("bob", bob.ID, b.ID)
	count("ann", "", 1)
	check("bob", bob.ID, b.ID)
	count("bob", bob.ID, 1)
	check("bob", bob.ID)

	// A marker is in no list, and stays.
	marker := e.load(t, tokenBob)
	marker.User, marker.Replaced, marker.Data = "", true, nil
	e.save(t, marker)
	check("bob")
	count("bob", "", 0)
	if got := e.load(t, tokenBob); !got.Replaced {
		t.Error("the marker is gone")
	}
}

func TestRedisIndexEntries(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		ctx := t.Context()
		rec, token := e.create(t, "ann")
		index := e.index(t)
		deadline := float64(rec.Deadline.UnixMilli())
		if score := e.client.ZScore(ctx, index, rec.ID).Val(); score != deadline {
			t.Errorf("score %v, deadline %v", score, deadline)
		}
		left := time.Until(rec.Deadline)
		if ttl := e.client.PTTL(ctx, index).Val(); ttl < left-time.Minute || ttl > left+2*time.Hour {
			t.Errorf("the index lives %v, its record %v", ttl, left)
		}

		// A longer lifetime moves entry and index on, a shorter one not back.
		rec = e.load(t, token)
		rec.Deadline = rec.Deadline.Add(48 * time.Hour)
		e.save(t, rec)
		if score := e.client.ZScore(ctx, index, rec.ID).Val(); score != float64(rec.Deadline.UnixMilli()) {
			t.Errorf("score %v after the deadline moved", score)
		}
		short, _ := e.record("ann")
		short.Deadline = short.Created.Add(time.Hour)
		e.save(t, short)
		if ttl := e.client.PTTL(ctx, index).Val(); ttl < 59*time.Hour {
			t.Errorf("the index lives %v", ttl)
		}

		// An entry whose record is still to come is left alone; one whose
		// deadline has passed goes.
		coming, gone := session.ID("coming"), session.ID("gone")
		e.client.ZAdd(ctx, index, redis.Z{Member: coming, Score: deadline},
			redis.Z{Member: gone, Score: float64(e.clock.Now().Add(-time.Minute).UnixMilli())})
		if n, err := e.store.DeleteUser(ctx, "ann", rec.ID); n != 1 || err != nil {
			t.Errorf("delete user: %d, %v", n, err)
		}
		entries := e.client.ZRange(ctx, index, 0, -1).Val()
		want := []string{coming, rec.ID}
		slices.Sort(entries)
		slices.Sort(want)
		if !slices.Equal(entries, want) {
			t.Errorf("entries %q, want %q", entries, want)
		}

		// Adding prunes what expired long ago.
		e.client.ZAdd(ctx, index, redis.Z{Member: gone, Score: float64(e.clock.Now().Add(-2 * time.Hour).UnixMilli())})
		e.create(t, "ann")
		if err := e.client.ZScore(ctx, index, gone).Err(); err != redis.Nil {
			t.Errorf("the expired entry: %v", err)
		}

		// An index that was lost ends no session; it lists those since.
		e.client.Del(ctx, index)
		if ids := e.list(t, "ann"); len(ids) != 0 {
			t.Errorf("list %q", ids)
		}
		rec = e.load(t, token)
		e.save(t, rec)
		again, _ := e.create(t, "ann")
		if ids := e.list(t, "ann"); !slices.Equal(ids, []string{again.ID}) {
			t.Errorf("list %q", ids)
		}

		// An entry must never name another user's session.
		bob, tokenBob := e.create(t, "bob")
		e.client.ZAdd(ctx, index, redis.Z{Member: bob.ID, Score: deadline})
		if n, err := e.store.DeleteUser(ctx, "ann", ""); n != 1 || err != nil {
			t.Errorf("delete user: %d, %v", n, err)
		}
		e.load(t, tokenBob)
	})
}

// Without an index entry there is no record: DeleteUser would not find it.
func TestRedisIndexFails(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		for _, apart := range []bool{false, true} {
			e.create(t, "ann")
			index := e.index(t)
			e.client.Del(t.Context(), index)
			e.client.Set(t.Context(), index, "not a set", 0)
			if apart {
				e.client.AddHook(oneKeyOnly{})
			}
			rec, token := e.record("ann")
			if _, err := e.store.Save(t.Context(), rec); err == nil {
				t.Error("saved")
			}
			_, err := e.store.Load(t.Context(), token)
			wantErr(t, "load", err, session.ErrNotFound)
			if _, err := e.store.DeleteUser(t.Context(), "ann", ""); err == nil {
				t.Error("delete user: no error")
			}
			e.client.Del(t.Context(), index)
		}
	})
}

func TestRedisManySessions(t *testing.T) {
	eachRedis(t, func(t *testing.T, e *redisEnv) {
		var keep string
		for range 230 {
			rec, _ := e.create(t, "ann")
			keep = rec.ID
		}
		if n := len(e.list(t, "ann")); n != 230 {
			t.Errorf("%d listed", n)
		}
		for range e.store.List(t.Context(), "ann") {
			break
		}
		if n, err := e.store.DeleteUser(t.Context(), "ann", keep); n != 229 || err != nil {
			t.Error(n, err)
		}
		if ids := e.list(t, "ann"); !slices.Equal(ids, []string{keep}) {
			t.Errorf("%q", ids)
		}
	})
}

// What fails is told, and not taken for "no sessions".
func TestRedisDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	e := onServer(t, l.Addr().String())
	ctx := t.Context()
	for _, err := range e.store.List(ctx, "ann") {
		if err == nil {
			t.Error("list: no error")
		}
	}
	for _, err := range e.store.Scan(ctx) {
		if err == nil {
			t.Error("scan: no error")
		}
	}
	if _, err := e.store.DeleteUser(ctx, "ann", ""); err == nil {
		t.Error("delete user: no error")
	}
	if err := e.store.Delete(ctx, "x"); err == nil {
		t.Error("delete: no error")
	}
	if err := e.store.Check(ctx); err == nil {
		t.Error("check: no error")
	}
	rec, _ := e.record("")
	if _, err := e.store.Save(ctx, rec); err == nil {
		t.Error("save: no error")
	}
}
