package hdfsstore

import "github.com/distsession/session/internal/dirstore"

// On is a store's sessions on another tree than HDFS.
func On(tree dirstore.Tree, opts *Options) *dirstore.Store { return newRecords(tree, opts) }
