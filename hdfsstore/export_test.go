package hdfsstore

import (
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// NewTree makes a tree without a store, for tests of the protocol's primitives.
func NewTree(addrs []string, user, root string, size int, limit time.Duration) *Tree {
	return &tree{pool: newPool(hdfs.ClientOptions{Addresses: addrs, User: user}, size, limit), root: root}
}

type Tree = tree

func (t *tree) Close() { t.close() }
