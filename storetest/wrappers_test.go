package storetest_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
	"github.com/redis/go-redis/v9"
)

func TestEncrypted(t *testing.T)         { storetest.Run(t, encrypted) }
func TestEncryptedOverHTTP(t *testing.T) { storetest.RunHTTP(t, encrypted) }

func TestMigrating(t *testing.T)         { storetest.Run(t, migrating) }
func TestMigratingOverHTTP(t *testing.T) { storetest.RunHTTP(t, migrating) }

func TestMigratingFirst(t *testing.T)         { storetest.Run(t, migratingFirst) }
func TestMigratingFirstOverHTTP(t *testing.T) { storetest.RunHTTP(t, migratingFirst) }

func TestMigratingSecond(t *testing.T)         { storetest.Run(t, migratingSecond) }
func TestMigratingSecondOverHTTP(t *testing.T) { storetest.RunHTTP(t, migratingSecond) }

func TestMigratingThird(t *testing.T)         { storetest.Run(t, migratingThird) }
func TestMigratingThirdOverHTTP(t *testing.T) { storetest.RunHTTP(t, migratingThird) }

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func encrypted(t *testing.T) storetest.Backend {
	b, _ := encryptedPlace(t)
	return b
}

func encryptedPlace(t *testing.T) (storetest.Backend, *storetest.Clock) {
	clock := &storetest.Clock{}
	inner := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
	keys := [][]byte{randomKey(), randomKey()}
	return storetest.Backend{
		Open:    func() session.Store { return must[session.Store](t)(session.Encrypted(inner, keys)) },
		Advance: clock.Advance,
	}, clock
}

// twoPlaces returns two empty stores of different kinds.
func twoPlaces(t *testing.T) (memory, other session.Store, clock *storetest.Clock) {
	clock = &storetest.Clock{}
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { client.Close() })
	return session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now}), session.NewRedisStore(client, &session.RedisOptions{Now: clock.Now}), clock
}

// migrating is how it begins: everything is created where it stays.
func migrating(t *testing.T) storetest.Backend {
	to, from, clock := twoPlaces(t)
	return storetest.Backend{
		Open:    func() session.Store { return must[session.Store](t)(session.Migrating(to, from)) },
		Advance: clock.Advance,
	}
}

// nodes is a place whose handles are of two kinds in turn, as in the middle of a
// rolling deploy.
func nodes(clock *storetest.Clock, skip map[string]string, kinds ...func() session.Store) storetest.Backend {
	var n atomic.Int64
	return storetest.Backend{
		Open:    func() session.Store { return kinds[int(n.Add(1))%len(kinds)]() },
		Advance: clock.Advance,
		Skip:    skip,
	}
}

// migratingFirst is the first roll-out, beside nodes that do not migrate yet.
func migratingFirst(t *testing.T) storetest.Backend {
	old, new, clock := twoPlaces(t)
	return nodes(clock, nil,
		func() session.Store { return old },
		func() session.Store { return must[session.Store](t)(session.Migrating(old, new)) })
}

// migratingSecond is the second, in which both kinds of nodes migrate, in
// opposite directions.
func migratingSecond(t *testing.T) storetest.Backend {
	old, new, clock := twoPlaces(t)
	skip := map[string]string{
		"Save with Version 0 never takes over an existing ID": "in the other store; IDs are random",
		"of several that create one ID exactly one wins":      "as above",
	}
	for _, name := range []string{
		"another handle sees a write at once",
		"a stale Version is ErrConflict and loses nothing",
		"an expired ID can be created again",
		"of several that save one version exactly one wins",
		"400 increments by compare-and-set over two handles: 400",
		"LoadAtLeast returns that version or a newer one",
		"List yields every session of the user",
	} {
		skip[name] = "it hands a Version from one handle to the other, or counts: a move gives another Version, and each kind of node its own"
	}
	return nodes(clock, skip,
		func() session.Store { return must[session.Store](t)(session.Migrating(old, new)) },
		func() session.Store { return must[session.Store](t)(session.Migrating(new, old)) })
}

// migratingThird is the third, beside nodes that have dropped the old store.
func migratingThird(t *testing.T) storetest.Backend {
	old, new, clock := twoPlaces(t)
	return nodes(clock, nil,
		func() session.Store { return must[session.Store](t)(session.Migrating(new, old)) },
		func() session.Store { return new })
}

func TestCached(t *testing.T)         { storetest.Run(t, cached) }
func TestCachedOverHTTP(t *testing.T) { storetest.RunHTTP(t, cached) }

func TestCachedNodes(t *testing.T)         { storetest.Run(t, cachedNodes) }
func TestCachedNodesOverHTTP(t *testing.T) { storetest.RunHTTP(t, cachedNodes) }

func TestCachedRedis(t *testing.T)         { storetest.Run(t, cachedRedis) }
func TestCachedRedisOverHTTP(t *testing.T) { storetest.RunHTTP(t, cachedInRealTime) }

func TestCachedEncrypted(t *testing.T)         { storetest.Run(t, cachedEncrypted) }
func TestCachedEncryptedOverHTTP(t *testing.T) { storetest.RunHTTP(t, cachedEncrypted) }

func TestEncryptedCached(t *testing.T)         { storetest.Run(t, encryptedCached) }
func TestEncryptedCachedOverHTTP(t *testing.T) { storetest.RunHTTP(t, encryptedCached) }

func TestCachedMigrating(t *testing.T)         { storetest.Run(t, cachedMigrating) }
func TestCachedMigratingOverHTTP(t *testing.T) { storetest.RunHTTP(t, cachedMigrating) }

// cached is one node: what it does itself it sees at once.
func cached(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	s := session.Cached(session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now}), &session.CachedOptions{Now: clock.Now})
	return storetest.Backend{Open: func() session.Store { return s }, Advance: clock.Advance}
}

// copying is the place b, where each handle has copies of its own.
func copying(b storetest.Backend, clock *storetest.Clock) storetest.Backend {
	open := b.Open
	b.MaxStale = time.Second
	b.Open = func() session.Store {
		return session.Cached(open(), &session.CachedOptions{MaxStale: b.MaxStale, Now: clock.Now})
	}
	return b
}

func cachedNodes(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	backup := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
	return copying(storetest.Backend{Open: func() session.Store { return backup }, Advance: clock.Advance}, clock)
}

func cachedRedis(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	addr := miniredis.RunT(t).Addr()
	return copying(redisPlace(t, clock, 0, func() redis.UniversalClient {
		return redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true})
	}), clock)
}

// cachedInRealTime are nodes whose copies grow old by themselves: nobody can move
// the clock.
func cachedInRealTime(t *testing.T) storetest.Backend {
	server := miniredis.RunT(t)
	return storetest.Backend{
		MaxStale: 20 * time.Millisecond,
		Open: func() session.Store {
			client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true})
			t.Cleanup(func() { client.Close() })
			return session.Cached(session.NewRedisStore(client, nil), &session.CachedOptions{MaxStale: 20 * time.Millisecond})
		},
	}
}

func cachedEncrypted(t *testing.T) storetest.Backend {
	b, clock := encryptedPlace(t)
	return copying(b, clock)
}

func encryptedCached(t *testing.T) storetest.Backend {
	b := cachedNodes(t)
	open, keys := b.Open, [][]byte{randomKey()}
	b.Open = func() session.Store { return must[session.Store](t)(session.Encrypted(open(), keys)) }
	return b
}

func cachedMigrating(t *testing.T) storetest.Backend {
	to, from, clock := twoPlaces(t)
	return copying(storetest.Backend{
		Open:    func() session.Store { return must[session.Store](t)(session.Migrating(to, from)) },
		Advance: clock.Advance,
	}, clock)
}
