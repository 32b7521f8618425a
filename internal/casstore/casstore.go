// Package casstore keeps a session as one item of a place that adds an item,
// and replaces exactly the one that was read, atomically: memcached, the grids.
// A [Place] is that; a [Store] is the session.Store on top.
//
// A place may lose any item at any time: a cache evicts, a grid loses what lay
// on members that died together. So a session of a user is live only while the
// user's index, an item of its own, names it. The entry is written before the
// record, and read with it. An index that is gone signs the user out, and
// nothing that ended comes back.
package casstore

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/distsession/session"
)

// A Place holds items. It may answer from anywhere, but its answers are never
// older than what it acknowledged before it was asked.
type Place interface {
	// Get returns an item, ErrNone if there is none.
	Get(ctx context.Context, key string) (*Item, error)

	// GetMany returns those of the items that are there, in any order. With an
	// error it returns those that it could get.
	GetMany(ctx context.Context, keys []string) ([]*Item, error)

	// Put adds the item if its Tag is nil, and otherwise replaces the one that
	// has this Tag. The item may go at end, the zero time for never, and must not
	// go before it. It is not changed, nor kept after an error. ErrNone says that
	// there is none to replace, ErrOther that there is one already, or another to
	// replace, or that the place cannot tell; session.ErrTooLarge is final. After any other error
	// nobody knows whether it was done.
	Put(ctx context.Context, it *Item, end time.Time) error

	// Remove tells whether there was one to remove.
	Remove(ctx context.Context, key string) (bool, error)

	// Limit is how many bytes a key and its value may have together.
	Limit() int
}

// An Item is what stands under a key.
type Item struct {
	Key   string
	Value []byte
	Tag   any // what the place compares
}

// The answers of a Place that are no failures.
var (
	ErrNone  = errors.New("there is no such item")
	ErrOther = errors.New("there is another item")
)

// answered tells whether the place did say "no".
func answered(err error) bool { return errors.Is(err, ErrNone) || errors.Is(err, ErrOther) }

// Options configure a Store. All of them are required.
type Options struct {
	Name   string // of the server, in errors
	Prefix string // of every key
	Now    func() time.Time
}

// Store keeps sessions in a place. Beside what every store does it touches,
// lists and ends a user's sessions.
type Store struct {
	place  Place
	name   string
	prefix string
	now    func() time.Time
	hints  hints
}

// New returns a store of what lies in place.
func New(place Place, opts Options) *Store {
	return &Store{place: place, name: opts.Name, prefix: opts.Prefix, now: opts.Now}
}

// Key is the key of a record. What was not made by session.ID is hashed, so
// that it cannot hold anything, or be too long.
func (s *Store) Key(id string) string {
	if session.WellFormed(id) { // an ID has a token's shape
		return s.prefix + id
	}
	return s.prefix + "id:" + hashed(id)
}

// UserKey is the key of a user's index. The name is hashed for the same
// reasons, and shows no mail address.
func (s *Store) UserKey(user string) string { return s.prefix + "user:" + hashed(user) }

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// fits tells whether the place will take an item.
func (s *Store) fits(key string, value []byte) error {
	if size, limit := len(key)+len(value), s.place.Limit(); size > limit {
		return fmt.Errorf("%w: the record takes %d bytes and %s %d", session.ErrTooLarge, size, s.name, limit)
	}
	return nil
}

// failed names what failed. What the caller must tell apart stays as it is.
func (s *Store) failed(act string, err error) error {
	if err == nil || err == session.ErrNotFound || err == session.ErrConflict {
		return err
	}
	return fmt.Errorf("session: %s: %s: %w", s.name, act, err)
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
)
