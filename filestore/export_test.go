package filestore

// LinkTree is what the store rests on.
type LinkTree = linkTree

// NewOn returns a store on a tree that is prepared.
func NewOn(tree LinkTree, opts *Options) *Store { return newStore(tree, opts) }

// Probe is the test of the primitives.
var Probe = probe
