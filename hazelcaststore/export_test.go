package hazelcaststore

import (
	"net/url"

	"github.com/distsession/session/hazelcaststore/internal/wire"
)

// What the tests look at from inside.

func ParseURL(u *url.URL) ([]string, *Options, error) { return parseURL(u) }

// PartitionOf is where the wire puts a key's Data.
func PartitionOf(key []byte, count int32) int32 { return wire.Data(key).Partition(count) }

// DataKey is a key as it stands on the wire.
func DataKey(key string) string { return string(wire.Key(key)) }
