package session

import (
	"bytes"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// room is the memory of a shard. Its copies are in the order of their checks, so
// that the dead are at the oldest end. Where there is no room for one more, a hand
// goes from there to the newest and takes the first that was not read since it
// last came by: SIEVE (Zhang et al., NSDI 2024), which keeps more of what is used
// than LRU, and moves nothing when a copy is read.
type room struct {
	bytes, max           int
	newest, oldest, hand *copied
}

// place is a copy's place in its shard.
type place struct {
	size         int
	read         atomic.Bool
	newer, older *copied
}

func (p *place) use() {
	if !p.read.Load() {
		p.read.Store(true)
	}
}

const (
	shardBytes = 1 << 20 // a shard has at least as much, if there is more than one
	maxShards  = 64
)

// makeRoom makes the shards.
func (c *copies) makeRoom(maxBytes int) {
	n := 1
	for n < maxShards && 2*n*shardBytes <= maxBytes {
		n *= 2
	}
	c.born, c.seed = time.Now(), maphash.MakeSeed()
	c.shards = make([]shard, n)
	for i := range c.shards {
		s := &c.shards[i]
		s.copies, s.max = c, maxBytes/n
		s.records, s.loads, s.touches = map[string]*copied{}, map[string]*sharedLoad{}, map[string]*sharedTouch{}
	}
}

// keep returns a record that shares no memory with rec, and pins none that is not
// counted: a store may have cut its texts from something longer.
func keep(rec *Record) *Record {
	kept := *rec
	kept.ID, kept.User, kept.Device = strings.Clone(rec.ID), strings.Clone(rec.User), strings.Clone(rec.Device)
	kept.Data = slices.Clip(slices.Clone(rec.Data))
	kept.Tag = &scanned{data: kept.Data}
	for _, t := range []*time.Time{&kept.Created, &kept.SignedIn, &kept.Seen, &kept.Expires, &kept.Deadline} {
		*t = t.Round(0) // a monotonic clock's reading would outlive a suspended machine
	}
	return &kept
}

// slotSize is about what a map takes for an entry, with the room to grow.
const slotSize = 48

// memory is about what a copy takes, with the members of its values that
// scanned keeps once somebody has read them.
func (c *copied) memory() int {
	n := int(unsafe.Sizeof(*c)+unsafe.Sizeof(*c.rec)+unsafe.Sizeof(scanned{})) + slotSize
	for _, text := range []int{len(c.rec.ID), len(c.rec.User), len(c.rec.Device), len(c.rec.Data)} {
		n += (text + 15) &^ 15
	}
	return n + bytes.Count(c.rec.Data, []byte{':'})*int(unsafe.Sizeof(member{}))
}

// put keeps a copy in the place of the one before.
func (s *shard) put(c *copied) {
	s.remove(s.records[c.rec.ID])
	if c.size = c.memory(); c.size > s.max {
		return
	}
	s.records[c.rec.ID] = c
	s.bytes += c.size
	if c.older = s.newest; c.older != nil {
		c.older.newer = c
	} else {
		s.oldest = c
	}
	s.newest = c
	s.removeDead(c.checked)
	for s.bytes > s.max {
		s.evict()
	}
	s.sweeper.start(s.copies)
}

func (s *shard) remove(c *copied) {
	if c == nil {
		return
	}
	delete(s.records, c.rec.ID)
	s.bytes -= c.size
	if s.hand == c {
		s.hand = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		s.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		s.oldest = c.newer
	}
}

// removeDead removes what is too old for every answer.
func (s *shard) removeDead(now instant) {
	for s.oldest != nil && now.since(s.oldest.checked) >= s.limit {
		s.remove(s.oldest)
	}
}

func (s *shard) evict() {
	for {
		c := s.hand
		if c == nil {
			c = s.oldest
		}
		s.hand = c.newer
		if !c.read.Swap(false) {
			s.remove(c)
			return
		}
	}
}

// sweeper removes what is dead also where nobody comes any more: the values of
// users who have left do not stay in memory. A timer holds no goroutine, and
// where there is no copy there is no timer.
type sweeper struct {
	runs   atomic.Bool
	mu     sync.Mutex
	timer  *time.Timer
	closed bool
}

func (w *sweeper) start(c *copies) {
	if w.runs.Load() || !w.runs.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.timer = time.AfterFunc(max(c.limit, time.Second), func() { c.sweep() })
	}
}

func (c *copies) sweep() {
	c.sweeper.runs.Store(false) // before it looks: who puts a copy now starts another
	now, left := c.instant(), false
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.removeDead(now)
		left = left || s.oldest != nil
		s.mu.Unlock()
	}
	if left {
		c.sweeper.start(c)
	}
}

// close forgets all copies.
func (c *copies) close() {
	c.sweeper.mu.Lock()
	c.sweeper.closed = true
	if c.sweeper.timer != nil {
		c.sweeper.timer.Stop()
	}
	c.sweeper.mu.Unlock()
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for s.oldest != nil {
			s.remove(s.oldest)
		}
		s.mu.Unlock()
	}
}
