package hdfsstore

import (
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// Tree is a tree without a store, for tests of the primitives.
type Tree = tree

func NewTree(addrs []string, user, root string, size int, limit time.Duration) *Tree {
	return &tree{pool: newPool(hdfs.ClientOptions{Addresses: addrs, User: user}, size, limit), root: root}
}

func (t *tree) Close() { t.pool.close() }
