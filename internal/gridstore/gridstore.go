// Package gridstore keeps sessions in a data grid: what the stores on members
// that compare whole values have in common.
//
// A [Grid] is the cache, and compares; a [Store] is the session.Store on top,
// with every ability but Cleaner, for a grid removes what has expired.
package gridstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/distsession/session"
)

// A Grid holds bytes under keys, for a time. Each call is atomic, on whatever
// member it is made, and what it has answered outlives the loss of a member.
//
// A ttl is at least a millisecond; what is kept longer does no harm. An error
// leaves the outcome open: the write may have been done, or be done later, and
// it is for the caller to find out. What was surely not sent to one member the
// Grid sends to another by itself.
type Grid interface {
	// Get returns the value, nil if there is none. Nobody writes to it.
	Get(ctx context.Context, key string) ([]byte, error)

	// Add writes value if there is none, and tells whether it did.
	Add(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error)

	// Replace writes value if what is there is old, byte for byte, and tells
	// whether it did. The ttl changes with the value or not at all.
	Replace(ctx context.Context, key string, old, value []byte, ttl time.Duration) (bool, error)

	// Remove removes what is there if it is old, byte for byte, or whatever it
	// is if old is nil, and tells whether it did.
	Remove(ctx context.Context, key string, old []byte) (bool, error)

	// Keys yields the keys of the cache, in no order. One that stays there
	// throughout is yielded at least once.
	Keys(ctx context.Context) iter.Seq2[string, error]
}

// Options configure a Store.
type Options struct {
	// Name begins every error, such as "hazelcaststore".
	Name string

	// Prefix begins every key.
	Prefix string

	// MaxValue is how many bytes a record or a user's index may take. If 0, it
	// is 1 MiB.
	MaxValue int

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultMaxValue = 1 << 20

	// late is how much longer the grid keeps what has expired: the record has
	// the exact time, and a member's clock may be ahead of another's.
	late = 2 * time.Second
)

// A Store is a session.Store on a Grid. It is a Toucher, Lister, UserDeleter
// and Scanner.
//
// A record is one item, Prefix and ID; the index of a user's sessions one more,
// Prefix, "user:" and a hash of the user's name.
type Store struct {
	grid   Grid
	name   string
	prefix string
	limit  int
	now    func() time.Time
}

// New returns a store on grid.
func New(grid Grid, opts Options) *Store {
	s := &Store{grid: grid, name: opts.Name, prefix: opts.Prefix, limit: cmp.Or(opts.MaxValue, defaultMaxValue), now: opts.Now}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

const userPart = "user:"

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
func (s *Store) UserKey(user string) string { return s.prefix + userPart + hashed(user) }

func hashed(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ttl is how long the grid keeps what must live until end.
func ttl(end, now time.Time) time.Duration {
	left := max(end.Sub(now), 0) // saturates at 292 years
	if left > left+late {
		return left
	}
	return left + late
}

// failed names what failed. What the caller must tell apart stays as it is.
func (s *Store) failed(act string, err error) error {
	if err == nil || err == session.ErrNotFound || err == session.ErrConflict {
		return err
	}
	return fmt.Errorf("%s: %s: %w", s.name, act, err)
}

// maxTries bounds how often a change is tried again because another came first.
const maxTries = 64

var errBusy = errors.New("others came first, again and again")

var (
	_ session.Store       = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
)
