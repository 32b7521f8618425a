package memcachedstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/distsession/session/internal/casstore"
)

// place is a Store's servers, as a casstore.Place. The Tag of an item is its CAS
// number.
type place struct{ *Store }

// Limit implements casstore.Place.
func (p place) Limit() int { return int(p.limit.Load()) }

// Get implements casstore.Place.
func (p place) Get(ctx context.Context, key string) (*casstore.Item, error) {
	it, err := read(ctx, p.Store, key, func(c *memcache.Client) (*memcache.Item, error) { return c.Get(key) })
	switch {
	case err != nil:
		return nil, answer(err)
	case it.Key != key:
		return nil, errors.New("the server answers for another key")
	case it.CasID == 0:
		return nil, errNoCAS
	}
	return &casstore.Item{Key: key, Value: it.Value, Tag: it.CasID}, nil
}

var errNoCAS = errors.New("the server runs without CAS (memcached -C, --disable-cas), so updates would be lost; start it without that option")

// GetMany implements casstore.Place: one request for each server, and all of
// them at once.
func (p place) GetMany(ctx context.Context, keys []string) ([]*casstore.Item, error) {
	shares := map[int][]string{}
	for _, key := range keys {
		at := 0
		if !p.replicated {
			at = p.ring.pick(key)
		}
		shares[at] = append(shares[at], key)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found []*casstore.Item
	var failure error
	for _, some := range shares {
		wg.Go(func() {
			items, err := read(ctx, p.Store, some[0], func(c *memcache.Client) (map[string]*memcache.Item, error) { return c.GetMulti(some) })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failure = err
				return
			}
			for key, it := range items {
				found = append(found, &casstore.Item{Key: key, Value: it.Value, Tag: it.CasID})
			}
		})
	}
	wg.Wait()
	return found, failure
}

// Put implements casstore.Place. memcached drops what was there when a set is
// too large; cas and add do not.
func (p place) Put(ctx context.Context, it *casstore.Item, end time.Time) error {
	sent := &memcache.Item{Key: it.Key, Value: it.Value} // a call that took too long goes on with it
	if !end.IsZero() {
		sent.Expiration = expiration(end, p.now())
	}
	cas, replace := it.Tag.(uint64)
	sent.CasID = cas
	_, err := write(ctx, p.Store, it.Key, func(c *memcache.Client) (struct{}, error) {
		if !replace {
			return struct{}{}, c.Add(sent)
		}
		return struct{}{}, c.CompareAndSwap(sent)
	})
	return answer(err)
}

// Remove implements casstore.Place.
func (p place) Remove(ctx context.Context, key string) (bool, error) {
	_, err := read(ctx, p.Store, key, func(c *memcache.Client) (struct{}, error) { return struct{}{}, c.Delete(key) })
	if errors.Is(err, memcache.ErrCacheMiss) {
		return false, nil
	}
	return err == nil, err
}

// answer is an error of the client in a Place's words.
func answer(err error) error {
	switch {
	case errors.Is(err, memcache.ErrCacheMiss):
		return casstore.ErrNone
	case errors.Is(err, memcache.ErrCASConflict), errors.Is(err, memcache.ErrNotStored):
		return casstore.ErrOther
	}
	return err
}

// failed names what failed.
func failed(act string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("session: memcached: %s: %w", act, err)
}

var _ casstore.Place = place{}
