package memcachedstore

import (
	"net/url"
	"time"
)

// What the tests look at from inside.

type (
	Ring  = ring
	Index = index
	Entry = entry
)

const (
	IndexNever  = indexNever
	IndexHeader = indexHeader
	IndexLate   = indexLate * time.Second
	Underway    = indexUnderway * time.Second
)

var (
	NewRing    = newRing
	ParseIndex = parseIndex
	Vouches    = vouches
	Expiration = expiration
)

func (r ring) Pick(key string) int                      { return r.pick(key) }
func (ix index) Encode(key string) []byte               { return ix.encode(key) }
func (ix index) Trim(now time.Time, limit int) index    { return ix.trim(now, limit) }
func NewEntry(id string, deadline, entered int64) entry { return entry{id, deadline, entered} }
func (e entry) ID() string                              { return e.id }
func (s *Store) Key(id string) string                   { return s.key(id) }
func (s *Store) UserKey(user string) string             { return s.userKey(user) }
func ParseURL(u *url.URL) ([]string, *Options, error)   { return parseURL(u) }
func (s *Store) MaxItem() int64                         { return s.limit.Load() }
