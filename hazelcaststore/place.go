package hazelcaststore

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore/internal/wire"
	"github.com/distsession/session/internal/casstore"
)

// place is a Store's cache, as a casstore.Place. The Tag of an item is its
// value, which is what the members compare.
type place struct{ *Store }

const (
	// late is how much longer than its record an entry lives: the clock of
	// another process may be behind, and the record decides.
	late = 2 * time.Second

	// forever is how long an entry lives that has no end: 292 years.
	forever = 1<<63 - 1 - late

	atOnce = 16 // entries that GetMany asks for
)

// Limit implements casstore.Place.
func (p place) Limit() int { return p.limit }

// Get implements casstore.Place.
func (p place) Get(ctx context.Context, key string) (*casstore.Item, error) {
	value, err := read(ctx, p.cluster, key, func(ctx context.Context, conn *wire.Conn) ([]byte, error) { return conn.Get(ctx, key) })
	switch {
	case err != nil:
		return nil, err
	case value == nil:
		return nil, casstore.ErrNone
	}
	return &casstore.Item{Key: key, Value: value, Tag: value}, nil
}

// GetMany implements casstore.Place: several requests at once, for Hazelcast's
// own getAll goes to all members, and fails if one of them does.
func (p place) GetMany(ctx context.Context, keys []string) ([]*casstore.Item, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found []*casstore.Item
	var failure error
	turn := make(chan struct{}, atOnce)
	for _, key := range keys {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			it, err := p.Get(ctx, key)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				found = append(found, it)
			case !errors.Is(err, casstore.ErrNone):
				failure = err
			}
		})
	}
	wg.Wait()
	return found, failure
}

// Put implements casstore.Place.
func (p place) Put(ctx context.Context, it *casstore.Item, end time.Time) error {
	old, there := it.Tag.([]byte)
	ttl := p.ttl(end)
	done, err := write(ctx, p.cluster, it.Key, func(ctx context.Context, conn *wire.Conn) (bool, error) {
		if !there {
			return conn.PutIfAbsent(ctx, it.Key, it.Value, ttl)
		}
		return conn.Replace(ctx, it.Key, old, it.Value, ttl)
	})
	if err == nil && !done {
		return casstore.ErrOther // or none: the protocol does not tell
	}
	return err
}

// ttl is how long the members keep what must live until end.
func (p place) ttl(end time.Time) time.Duration {
	if end.IsZero() {
		return forever
	}
	return min(max(end.Sub(p.now()), 0), forever-late) + late
}

// Remove implements casstore.Place.
func (p place) Remove(ctx context.Context, key string) (bool, error) {
	return read(ctx, p.cluster, key, func(ctx context.Context, conn *wire.Conn) (bool, error) { return conn.Remove(ctx, key, nil) })
}

// Scan implements session.Scanner. A record may come twice if the grid moves it
// to another member meanwhile.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return casstore.Scan(ctx, s.records, s.cluster.keys(ctx))
}

// keys yields the keys of the cache, from partition to partition. One that
// stays there throughout is yielded at least once.
func (c *cluster) keys(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		partitions, err := read(ctx, c, "", func(_ context.Context, conn *wire.Conn) (int32, error) { return conn.Partitions(), nil })
		if err != nil {
			yield("", err)
			return
		}
		for p := range partitions {
			for next := []byte(nil); ; {
				page, err := read(ctx, c, "", func(ctx context.Context, conn *wire.Conn) (wire.Page, error) {
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

var _ casstore.Place = place{}
