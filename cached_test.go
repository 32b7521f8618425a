package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// cache is a node with copies, the backup's calls counted and faulted.
type cache struct {
	session.Store
	backup *storetest.Faulty
	memory *session.MemoryStore
}

func (c *cache) Unwrap() session.Store { return c.Store }

func newCache(t testing.TB, opts *session.CachedOptions) *cache {
	t.Helper()
	memory := session.NewMemoryStore(nil)
	return newCacheOver(t, memory, opts)
}

// newCacheOver is one more node.
func newCacheOver(t testing.TB, memory *session.MemoryStore, opts *session.CachedOptions) *cache {
	t.Helper()
	c := &cache{backup: storetest.NewFaulty(memory), memory: memory}
	c.Store = session.Cached(c.backup, opts)
	t.Cleanup(func() { session.Close(c.Store) })
	return c
}

func (c *cache) loadAtLeast(ctx context.Context, token string, version int64) (*session.Record, error) {
	loader, _ := session.As[session.AtLeaster](c.Store)
	return loader.LoadAtLeast(ctx, token, version)
}

// loads is how often the backup was asked for a session since the last call.
func (c *cache) loads() int {
	defer c.backup.Reset()
	return c.backup.Calls(storetest.Load)
}

// change saves another number in the session, by another way than c's.
func change(t testing.TB, s session.Store, token string, n int) {
	t.Helper()
	rec := load(t, s, token)
	rec.Data = fmt.Appendf(nil, `{"n":%d}`, n)
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
}

// shows checks what the store shows, and how often it asked the backup for it.
func (c *cache) shows(t testing.TB, when, token, data string, loads int) {
	t.Helper()
	rec, err := c.Load(t.Context(), token)
	if err != nil || string(rec.Data) != data {
		t.Errorf("%s: %+v, %v; want %s", when, rec, err, data)
	}
	if n := c.loads(); n != loads {
		t.Errorf("%s: %d loads of the backup; want %d", when, n, loads)
	}
}

func TestCachedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second})
		_, token := create(t, c)
		c.shows(t, "after its own save", token, `{"n":1}`, 0)
		change(t, c.memory, token, 2)
		time.Sleep(9 * time.Second)
		c.shows(t, "within MaxStale", token, `{"n":1}`, 0)
		time.Sleep(time.Second)
		c.shows(t, "past MaxStale", token, `{"n":2}`, 1)
		c.shows(t, "checked again", token, `{"n":2}`, 0)

		change(t, c, token, 3)
		c.shows(t, "its own save", token, `{"n":3}`, 0)
		rec := load(t, c, token)
		change(t, c.memory, token, 4)
		_, err := c.Save(t.Context(), rec)
		wantErr(t, "a save of an old version", err, session.ErrConflict)
		c.shows(t, "after a conflict", token, `{"n":4}`, 1)

		_, other := create(t, c.memory)
		c.shows(t, "what it has not seen yet", other, `{"n":1}`, 1)
		for range 2 {
			_, err := c.Load(t.Context(), session.NewToken())
			wantErr(t, "a token that was never issued", err, session.ErrNotFound)
		}
		unknown := session.NewToken()
		for range 2 {
			_, err := c.Load(t.Context(), unknown)
			wantErr(t, "an unknown token", err, session.ErrNotFound)
		}
		if n := c.loads(); n != 4 {
			t.Errorf("%d loads; that a token opens nothing is not remembered", n)
		}
		for _, malformed := range []string{"", token + "x", token[1:], strings.Repeat("=", 43)} {
			_, err := c.Load(t.Context(), malformed)
			wantErr(t, "a malformed token", err, session.ErrNotFound)
		}
		if n := c.loads(); n != 0 {
			t.Errorf("%d loads of malformed tokens", n)
		}
	})
}

func TestCachedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := session.NewMemoryStore(nil)
		one := newCacheOver(t, memory, &session.CachedOptions{MaxStale: time.Minute})
		two := newCacheOver(t, memory, &session.CachedOptions{MaxStale: time.Minute})
		ends := map[string]func(c *cache, rec *session.Record) error{
			"Delete": func(c *cache, rec *session.Record) error { return c.Delete(t.Context(), rec.ID) },
			"DeleteUser": func(c *cache, rec *session.Record) error {
				_, err := session.DeleteUser(t.Context(), c, rec.User, "")
				return err
			},
		}
		for name, end := range ends {
			rec, token := create(t, one)
			load(t, two, token)
			if err := end(one, rec); err != nil {
				t.Fatal(err)
			}
			_, err := one.Load(t.Context(), token)
			wantErr(t, name+" on this node", err, session.ErrNotFound)
			load(t, two, token) // as said
			time.Sleep(time.Minute)
			_, err = two.Load(t.Context(), token)
			wantErr(t, name+" on another node, after MaxStale", err, session.ErrNotFound)

			// The answer is lost: it may have ended.
			rec, token = create(t, one)
			one.backup.SetAll(storetest.LoseAnswer(errAway))
			wantErr(t, name, end(one, rec), errAway)
			one.backup.Heal()
			_, err = one.Load(t.Context(), token)
			wantErr(t, name+" whose answer was lost", err, session.ErrNotFound)
		}
		// The session that is kept is there, and others' are as well.
		kept, token := create(t, one)
		_, other := create(t, one)
		bob, bobs := draft()
		bob.User = "bob"
		mustSave(t, one, bob)
		one.loads()
		if n, err := session.DeleteUser(t.Context(), one, "ann", kept.ID); err != nil || n != 1 {
			t.Errorf("DeleteUser = %d, %v", n, err)
		}
		load(t, one, token)
		load(t, one, bobs)
		_, err := one.Load(t.Context(), other)
		wantErr(t, "the one that is not kept", err, session.ErrNotFound)
	})
}

// What is in a copy is nobody else's.
func TestCachedSharesNothing(t *testing.T) {
	c := newCache(t, nil)
	rec, token := draft()
	mustSave(t, c, rec)
	rec.Data[1] = 'X'
	one, two := load(t, c, token), load(t, c, token)
	if string(one.Data) != `{"n":1}` {
		t.Fatalf("what the caller of Save changed later is in the copy: %s", one.Data)
	}
	_ = append(one.Data, "junk"...)
	_ = append(two.Data, "other"...)
	one.User, one.Version = "mallory", 99
	if three := load(t, c, token); three.User != "ann" || three.Version != 1 || string(three.Data) != `{"n":1}` || string(one.Data[:cap(one.Data)]) != `{"n":1}` {
		t.Errorf("%+v with %s", three, three.Data[:cap(three.Data)])
	}
	if n := c.loads(); n != 0 {
		t.Errorf("%d loads: nothing was tested", n)
	}
}

func TestCachedLoadAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := session.NewMemoryStore(nil)
		c := newCacheOver(t, memory, &session.CachedOptions{MaxStale: time.Hour})
		_, token := create(t, c)
		change(t, memory, token, 2)
		for _, tt := range []struct {
			version, got int64
			loads        int
			why          string
		}{
			{0, 1, 0, "nothing is known: the copy"},
			{-1, 1, 0, "nonsense: the copy"},
			{1, 1, 0, "the copy has it"},
			{2, 2, 1, "the copy is older"},
			{2, 2, 0, "not any more"},
			{1, 2, 0, "newer than asked for"},
			{3, 2, 1, "never written: one look at the truth"},
			{3, 2, 1, "it may have been written since"},
			{1000, 2, 1, "as above"},
			{math.MaxInt64, 2, 1, "invented: one look at the truth"},
			{math.MaxInt64, 2, 0, "and no more"},
			{1 << 40, 2, 1, "another one, another look"},
			{1 << 62, 2, 1, "of Migrating's other range: one look"},
			{1 << 62, 2, 0, "a session does not move back so soon"},
			{2, 2, 0, "what is true is never in doubt"},
		} {
			rec, err := c.loadAtLeast(t.Context(), token, tt.version)
			if err != nil || rec.Version != tt.got {
				t.Errorf("LoadAtLeast(%d): %+v, %v; want version %d (%s)", tt.version, rec, err, tt.got, tt.why)
			}
			if n := c.loads(); n != tt.loads {
				t.Errorf("LoadAtLeast(%d): %d loads, want %d (%s)", tt.version, n, tt.loads, tt.why)
			}
		}
		// The version that was claimed is written after all.
		change(t, memory, token, 3)
		if rec, err := c.loadAtLeast(t.Context(), token, 3); err != nil || rec.Version != 3 {
			t.Errorf("%+v, %v", rec, err)
		}
	})
}

// Migrating counts the versions of its second store from 2^62.
func TestCachedOverMigratingComparesNoTwoRanges(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	opts := &session.CachedOptions{MaxStale: time.Hour}
	one, two := session.Cached(migrate(t, old, new), opts), session.Cached(migrate(t, new, old), opts)
	_, token := create(t, one)
	ahead := load(t, two, token).Version // it has moved, and is 1 or 2 there
	stays := load(t, one, token)         // a copy of before
	if ahead >= 1<<62 || stays.Version != 1 {
		t.Fatalf("versions %d and %d", ahead, stays.Version)
	}
	loader, _ := session.As[session.AtLeaster](one)
	change(t, two, token, 2)
	rec, err := loader.LoadAtLeast(t.Context(), token, ahead+1)
	if err != nil || string(rec.Data) != `{"n":2}` || rec.Version < 1<<62 {
		t.Fatalf("%+v, %v", rec, err)
	}
	change(t, two, token, 3)
	if rec, err = loader.LoadAtLeast(t.Context(), token, ahead+2); err != nil || string(rec.Data) != `{"n":3}` {
		t.Errorf("a copy of version %d was taken for one of %d: %s, %v", rec.Version, ahead+2, rec.Data, err)
	}
}

func TestCachedWhileTheBackupIsDown(t *testing.T) {
	errDown := errors.New("down")
	for _, tt := range []struct {
		why          string
		staleIfDown  time.Duration
		age          time.Duration
		before       func(c *cache, token string)
		version      int64
		fails        bool
		loads, again int
	}{
		{"a copy within MaxStale is read on", 0, 9 * time.Second, nil, 1, false, 0, 0},
		{"a copy past MaxStale is a failure", 0, 10 * time.Second, nil, 1, true, 1, 1},
		{"StaleIfDown allows it, and not every request waits for the next failure", time.Minute, 10 * time.Second, nil, 1, false, 1, 0},
		{"for so long beyond MaxStale", time.Minute, 69 * time.Second, nil, 1, false, 1, 0},
		{"and no longer", time.Minute, 70 * time.Second, nil, 1, true, 1, 1},
		{"but not of a version that the client knows to be old", time.Minute, 10 * time.Second, nil, 2, true, 1, 1},
		{"a save failed, and nobody knows how", 0, 0, failingSave, 1, true, 1, 1},
		{"the same, where StaleIfDown allows it", time.Minute, 0, failingSave, 1, false, 1, 0},
		{"a sign-out failed", time.Minute, 0, func(c *cache, token string) {
			c.Delete(context.Background(), session.ID(token))
		}, 1, true, 1, 1},
		{"a sign-out everywhere failed", time.Minute, 0, func(c *cache, _ string) {
			session.DeleteUser(context.Background(), c, "ann", "")
		}, 1, true, 1, 1},
		{"it has expired", 2 * time.Hour, time.Hour, nil, 1, true, 1, 1},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second, StaleIfDown: tt.staleIfDown})
				_, token := create(t, c)
				c.backup.SetAll(storetest.Fail(errDown))
				if tt.before != nil {
					tt.before(c, token)
				}
				time.Sleep(tt.age)
				c.loads()
				for i, loads := range []int{tt.loads, tt.again} {
					rec, err := c.loadAtLeast(t.Context(), token, tt.version)
					if tt.fails != errors.Is(err, errDown) || !tt.fails && (err != nil || rec.Version != 1) {
						t.Errorf("read %d: %+v, %v", i, rec, err)
					}
					if n := c.loads(); n != loads {
						t.Errorf("read %d: %d loads, want %d", i, n, loads)
					}
				}
				rec, _ := draft()
				_, err := c.Save(t.Context(), rec)
				wantErr(t, "a save", err, errDown)
				c.backup.Heal()
				time.Sleep(time.Second)
				if rec, err := c.loadAtLeast(t.Context(), token, tt.version); tt.age < time.Hour && (err != nil || rec.Version != 1) {
					t.Errorf("healed: %+v, %v", rec, err)
				}
			})
		})
	}
}

func failingSave(c *cache, token string) {
	rec, _ := c.Load(context.Background(), token)
	c.Save(context.Background(), rec)
}

// A save whose answer was lost has changed the session.
func TestCachedSaveWithALostAnswer(t *testing.T) {
	c := newCache(t, &session.CachedOptions{MaxStale: time.Hour})
	_, token := create(t, c)
	rec := load(t, c, token)
	rec.Data = []byte(`{"n":2}`)
	c.backup.Set(storetest.Save, storetest.LoseAnswer(errAway))
	_, err := c.Save(t.Context(), rec)
	wantErr(t, "save", err, errAway)
	c.backup.Heal()
	c.shows(t, "afterwards", token, `{"n":2}`, 1)
	c.backup.Set(storetest.Save, func(_ context.Context, _ int, call func() error) error {
		call()
		panic("in the driver")
	})
	func() {
		defer func() { recover() }()
		change(t, c, token, 3)
	}()
	c.backup.Heal()
	c.shows(t, "after a panic", token, `{"n":3}`, 1)
}

// Each clock is right sometimes; no one alone decides that a copy is young.
func TestCachedAge(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		monotonic, wall, told, want time.Duration
		why                         string
	}{
		{s, s, s, s, "all is well"},
		{3 * s, 3 * s, 3 * s, 3 * s, "SIGSTOP: both clocks run on"},
		{s, 9 * s, s, 9 * s, "suspended: the monotonic clock stood still (CLOCK_MONOTONIC), Now's as well"},
		{s, s, 9 * s, 9 * s, "Now is another clock, and was moved"},
		{9 * s, s, s, 9 * s, "the wall clock was set back by 8 s"},
		{s, -5 * s, s, session.Forever, "it was set back: by how much, and whether it stood still as well, nobody knows"},
		{s, s, -5 * s, session.Forever, "the same with Now"},
		{s, 3600 * s, s, 3600 * s, "set forward: too old is on the safe side"},
		{0, -time.Microsecond, 0, 0, "the clocks are not read at once"},
		{-time.Microsecond, -time.Microsecond, -time.Microsecond, -time.Microsecond, "checked after this request looked at the clock"},
		{-time.Microsecond, 5 * s, s, 5 * s, "the same, and the wall clock jumped"},
	} {
		if got := session.CopyAge(tt.monotonic, tt.wall, tt.told); got != tt.want {
			t.Errorf("monotonic %v, wall %v, Now %v: age %v; want %v (%s)", tt.monotonic, tt.wall, tt.told, got, tt.want, tt.why)
		}
	}
}

// The age counts from before the backup was asked, also where its answer takes
// long, as in a node that is stopped while it waits.
func TestCachedAgeCountsFromTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 10 * time.Second})
		slow := func(_ context.Context, _ int, call func() error) error {
			err := call()
			time.Sleep(8 * time.Second)
			return err
		}
		_, token := create(t, c.memory)
		c.backup.Set(storetest.Load, slow)
		c.shows(t, "a slow load", token, `{"n":1}`, 1)
		change(t, c.memory, token, 2)
		time.Sleep(time.Second)
		c.shows(t, "9 s after the question", token, `{"n":1}`, 0)
		time.Sleep(time.Second)
		c.backup.Heal()
		c.shows(t, "10 s after the question, 2 s after the answer", token, `{"n":2}`, 1)
		c.backup.Set(storetest.Save, slow)
		change(t, c, token, 3)
		c.backup.Heal()
		change(t, c.memory, token, 4)
		time.Sleep(time.Second)
		c.shows(t, "9 s after a slow save", token, `{"n":3}`, 0)
		time.Sleep(time.Second)
		c.shows(t, "10 s after a slow save", token, `{"n":4}`, 1)
	})
}

// An injected clock that is moved makes copies old, and one that is set back
// makes none young.
func TestCachedNow(t *testing.T) {
	var clock storetest.Clock
	c := newCache(t, &session.CachedOptions{MaxStale: time.Minute, Now: clock.Now})
	_, token := create(t, c.memory)
	c.shows(t, "the first", token, `{"n":1}`, 1)
	c.shows(t, "again", token, `{"n":1}`, 0)
	clock.Advance(time.Minute)
	c.shows(t, "a minute later by Now", token, `{"n":1}`, 1)
	clock.Advance(-time.Second)
	c.shows(t, "Now is set back", token, `{"n":1}`, 1)
}

// An expired copy is no answer: another node may have touched the session.
func TestCachedAsksForWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(t, &session.CachedOptions{MaxStale: 3 * time.Hour})
		rec, token := create(t, c)
		if err := c.memory.Touch(t.Context(), rec.ID, time.Now(), time.Now().Add(90*time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(61 * time.Minute)
		c.shows(t, "past the copy's Expires", token, `{"n":1}`, 1)
		c.shows(t, "again", token, `{"n":1}`, 0)
		time.Sleep(30 * time.Minute)
		_, err := c.Load(t.Context(), token)
		wantErr(t, "past the session's Expires", err, session.ErrNotFound)
	})
}

func TestCachedAbilities(t *testing.T) {
	bare := struct{ session.Store }{session.NewMemoryStore(nil)} // hides every ability
	full := session.NewMemoryStore(nil)
	cached := func(s session.Store) session.Store { return session.Cached(s, nil) }
	for _, tt := range []struct {
		name                              string
		store                             session.Store
		others, scan, atLeaster, userEnds bool
	}{
		{"over memory", cached(full), true, true, true, true},
		{"over a bare store", cached(bare), false, false, true, false},
		{"over Encrypted", cached(encrypt(t, full, 1)), true, true, true, true},
		{"inside Encrypted", encrypt(t, cached(full), 1), true, true, true, true},
		{"a bare one inside Encrypted", encrypt(t, cached(bare), 1), false, false, true, false},
		{"over Migrating", cached(migrate(t, full, session.NewMemoryStore(nil))), true, true, true, true},
		{"over Migrating to a bare store", cached(migrate(t, bare, full)), false, false, true, false},
		{"over Encrypted Migrating", cached(encrypt(t, migrate(t, full, session.NewMemoryStore(nil)), 1)), true, true, true, true},
		// Without copies there is nothing to be at least of.
		{"memory", full, true, true, false, true},
		{"Encrypted", encrypt(t, full, 1), true, true, false, true},
		{"Migrating", migrate(t, full, session.NewMemoryStore(nil)), true, true, false, true},
		{"Encrypted Migrating", encrypt(t, migrate(t, full, session.NewMemoryStore(nil)), 1), true, true, false, true},
	} {
		for name, has := range map[string][2]bool{
			"Lister":      {is[session.Lister](tt.store), tt.others},
			"Toucher":     {is[session.Toucher](tt.store), tt.others},
			"UserDeleter": {is[session.UserDeleter](tt.store), tt.userEnds},
			"Scanner":     {is[session.Scanner](tt.store), tt.scan},
			"AtLeaster":   {is[session.AtLeaster](tt.store), tt.atLeaster},
		} {
			if has[0] != has[1] {
				t.Errorf("%s: %s %t, want %t", tt.name, name, has[0], has[1])
			}
		}
	}
}

func TestCachedConfiguration(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	var none *session.MemoryStore
	for _, tt := range []struct {
		why    string
		backup session.Store
		opts   *session.CachedOptions
	}{
		{"no backup", nil, nil},
		{"a nil pointer", none, nil},
		{"a client-side backup", newCookieStore(t, &session.CookieOptions{Irrevocable: true}), nil},
		{"Cached in Cached", session.Cached(memory, nil), nil},
		{"Cached in Encrypted in Cached", encrypt(t, session.Cached(memory, nil), 1), nil},
		{"a backup that is misconfigured itself", session.Cached(nil, nil), nil},
		{"MaxStale", memory, &session.CachedOptions{MaxStale: -1}},
		{"StaleIfDown", memory, &session.CachedOptions{StaleIfDown: -1}},
		{"MaxBytes", memory, &session.CachedOptions{MaxBytes: -1}},
		{"for ever and a day", memory, &session.CachedOptions{MaxStale: math.MaxInt64, StaleIfDown: 1}},
	} {
		s := session.Cached(tt.backup, tt.opts)
		_, err := session.New(s, nil)
		wantErr(t, tt.why+": New", err, session.ErrConfig)
		_, err = session.Encrypted(s, [][]byte{testKey(1)})
		wantErr(t, tt.why+": Encrypted", err, session.ErrConfig)
		_, err = session.Migrating(memory, s)
		wantErr(t, tt.why+": Migrating", err, session.ErrConfig)
		_, err = session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Revoked: s})
		wantErr(t, tt.why+": Revoked", err, session.ErrConfig)
		_, err = s.Load(t.Context(), session.NewToken())
		wantErr(t, tt.why+": Load", err, session.ErrConfig)
		rec, token := draft()
		_, err = s.Save(t.Context(), rec)
		wantErr(t, tt.why+": Save", err, session.ErrConfig)
		wantErr(t, tt.why+": Delete", s.Delete(t.Context(), rec.ID), session.ErrConfig)
		_, err = session.DeleteUser(t.Context(), s, "ann", "")
		wantErr(t, tt.why+": DeleteUser", err, session.ErrConfig)
		for _, err := range session.List(t.Context(), s, "ann") {
			wantErr(t, tt.why+": List", err, session.ErrConfig)
		}
		loader, _ := session.As[session.AtLeaster](s)
		_, err = loader.LoadAtLeast(t.Context(), token, 1)
		wantErr(t, tt.why+": LoadAtLeast", err, session.ErrConfig)
	}
	for _, m := range []session.Store{session.Cached(memory, nil), encrypt(t, session.Cached(memory, nil), 1)} {
		_, err := session.Migrating(m, session.NewMemoryStore(nil))
		wantErr(t, "Cached inside Migrating", err, session.ErrConfig)
		_, err = session.Migrating(session.NewMemoryStore(nil), m)
		wantErr(t, "Cached inside Migrating", err, session.ErrConfig)
	}
}

func TestCachedOpen(t *testing.T) {
	for raw, fine := range map[string]bool{
		"cached:?store=memory:": true,
		"cached:?store=" + url.QueryEscape("memory:?max=10") + "&max_stale=3s&stale_if_down=1m&max_bytes=1048576": true,
		"cached:?max_stale=1s":                  false,
		"cached:":                               false,
		"cached:?store=memory:&max_stale=-1s":   false,
		"cached:?store=memory:&max_stale=soon":  false,
		"cached:?store=memory:&max_bytes=-1":    false,
		"cached:?store=memory:&ttl=1s":          false,
		"cached://host/?store=memory:":          false,
		"cached:?store=cached:%3Fstore=memory:": false,
		"cached:?store=nowhere:":                false,
	} {
		s, err := session.Open(t.Context(), raw)
		if fine {
			if err != nil {
				t.Errorf("%s: %v", raw, err)
				continue
			}
			_, token := create(t, s)
			load(t, s, token)
			if err := session.Close(s); err != nil {
				t.Errorf("%s: Close: %v", raw, err)
			}
			continue
		}
		wantErr(t, raw, err, session.ErrConfig)
	}
	_, err := session.Open(t.Context(), "cached:?store=redis://:one&hunter2@h/0")
	if !errors.Is(err, session.ErrConfig) || strings.Contains(err.Error(), "hunter2") {
		t.Error("an unescaped URL: the error is no ErrConfig or shows the password")
	}
}

// closer is a store that was opened, and what was passed in closes with it.
type closer struct {
	session.Store
	closed int
}

func (c *closer) Close() error { c.closed++; return errAway }

func TestCachedCloses(t *testing.T) {
	c := &closer{Store: session.NewMemoryStore(nil)}
	s := session.Cached(c, nil)
	var _ io.Closer = c
	wantErr(t, "Close", session.Close(s), errAway)
	if c.closed != 1 {
		t.Errorf("closed %d times", c.closed)
	}
}
