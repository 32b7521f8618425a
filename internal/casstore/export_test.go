package casstore

import "time"

// What the tests look at from inside.

type Entry = entry

const (
	IndexNever  = indexNever
	IndexHeader = indexHeader
	IndexLate   = indexLate * time.Second
)

var Vouches = vouches

func (ix Index) Encode(key string) []byte               { return ix.encode(key) }
func (ix Index) Trim(now time.Time, limit int) Index    { return ix.trim(now, limit) }
func NewEntry(id string, deadline, entered int64) entry { return entry{id, deadline, entered} }
func (e entry) ID() string                              { return e.id }
func (e entry) Entered() int64                          { return e.entered }
