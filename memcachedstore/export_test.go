package memcachedstore

import (
	"net/url"
)

// What the tests look at from inside.

type (
	Ring = ring
)

var (
	NewRing    = newRing
	Expiration = expiration
)

func (r ring) Pick(key string) int                    { return r.pick(key) }
func ParseURL(u *url.URL) ([]string, *Options, error) { return parseURL(u) }
func (s *Store) MaxItem() int64                       { return s.limit.Load() }
