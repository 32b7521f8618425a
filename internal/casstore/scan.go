package casstore

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/distsession/session"
)

// Scan is session.Scanner's for a place that lists the keys of its items. One
// that stays there throughout must be among them at least once; it may come
// several times, and its record then does too.
func Scan(ctx context.Context, s *Store, keys iter.Seq2[string, error]) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		some := make([]string, 0, batch)
		// look tells whether to go on.
		look := func() bool {
			items, err := s.place.GetMany(ctx, some)
			some = some[:0]
			var live []*session.Record
			if err == nil {
				live, err = Live(ctx, s, items)
			}
			if err != nil {
				yield(nil, s.failed("scan", err))
				return false
			}
			for _, rec := range live {
				if !yield(rec, nil) {
					return false
				}
			}
			return true
		}
		for key, err := range keys {
			if err != nil {
				yield(nil, s.failed("scan", err))
				return
			}
			if _, ok := s.id(key); !ok {
				continue
			}
			if some = append(some, key); len(some) == batch && !look() {
				return
			}
		}
		if len(some) > 0 {
			look()
		}
	}
}

// id is the ID of the record that stands under a key. The key of one whose ID
// session.ID did not make does not tell it.
func (s *Store) id(key string) (string, bool) {
	id, ok := strings.CutPrefix(key, s.prefix)
	return id, ok && session.WellFormed(id)
}

// Live returns the sessions among these items, which were found by a scan: those
// that have not expired, are no markers, and for which the user's index vouches.
// It passes over what is no record, and a record whose key does not tell its ID.
func Live(ctx context.Context, s *Store, items []*Item) ([]*session.Record, error) {
	var found []*session.Record
	indexes := map[string][]byte{}
	for _, it := range items {
		id, ok := s.id(it.Key)
		if !ok {
			continue
		}
		rec, trail, err := session.DecodeRecord(id, it.Value)
		if err != nil || rec.Replaced || rec.Expired(s.now()) {
			continue
		}
		rec.Tag = (&stored{rec, trail, it}).tag()
		found = append(found, rec)
		if rec.User != "" {
			indexes[s.UserKey(rec.User)] = nil
		}
	}
	texts, err := s.place.GetMany(ctx, slices.Collect(maps.Keys(indexes)))
	if err != nil {
		return nil, err
	}
	for _, it := range texts {
		indexes[it.Key] = it.Value
	}
	return slices.DeleteFunc(found, func(rec *session.Record) bool {
		if rec.User == "" {
			return false
		}
		key := s.UserKey(rec.User)
		ok, err := vouches(key, indexes[key], rec.ID)
		return !ok || err != nil
	}), nil
}
