package ignitestore

import (
	"context"
	"slices"
	"time"

	"github.com/distsession/session/ignitestore/internal/wire"
	"github.com/distsession/session/internal/casstore"
)

// place is a Store's cache, as a casstore.Place. The Tag of an item is its
// value, which is what the cluster compares.
type place struct{ *Store }

// slack is how much longer than its record an entry lives: the clock of another
// process may be behind, and the record decides.
const slack = time.Second

// Limit implements casstore.Place.
func (p place) Limit() int { return p.limit }

func (p place) id() int32 { return wire.CacheID(p.cache) }

// Get implements casstore.Place.
func (p place) Get(ctx context.Context, key string) (*casstore.Item, error) {
	value, err := read(ctx, p.Store, key, func(ctx context.Context, c *wire.Conn) ([]byte, error) { return c.Get(ctx, p.id(), key) })
	switch {
	case err != nil:
		return nil, err
	case value == nil:
		return nil, casstore.ErrNone
	}
	return item(key, value), nil
}

func item(key string, value []byte) *casstore.Item {
	return &casstore.Item{Key: key, Value: value, Tag: value}
}

// GetMany implements casstore.Place.
func (p place) GetMany(ctx context.Context, keys []string) (items []*casstore.Item, err error) {
	for some := range slices.Chunk(keys, rows) {
		found, err := read(ctx, p.Store, some[0], func(ctx context.Context, c *wire.Conn) ([]wire.Entry, error) { return c.GetAll(ctx, p.id(), some) })
		if err != nil {
			return items, err
		}
		for _, e := range found {
			items = append(items, item(e.Key, e.Value))
		}
	}
	return items, nil
}

// Put implements casstore.Place.
func (p place) Put(ctx context.Context, it *casstore.Item, end time.Time) error {
	ttl := wire.Forever
	if !end.IsZero() {
		ttl = max(end.Sub(p.now()), 0) + slack
	}
	old, replace := it.Tag.([]byte)
	done, err := write(ctx, p.Store, it.Key, func(ctx context.Context, c *wire.Conn) (bool, error) {
		if !replace {
			return c.PutIfAbsent(ctx, p.id(), it.Key, it.Value, ttl)
		}
		return c.Replace(ctx, p.id(), it.Key, old, it.Value, ttl)
	})
	if err == nil && !done {
		return casstore.ErrOther // or none: the protocol does not tell
	}
	return err
}

// Remove implements casstore.Place.
func (p place) Remove(ctx context.Context, key string) (bool, error) {
	return read(ctx, p.Store, key, func(ctx context.Context, c *wire.Conn) (bool, error) { return c.Remove(ctx, p.id(), key) })
}

var _ casstore.Place = place{}
