package session

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// copies are the records that a cached store has in memory.
//
// What makes a copy wrong on this node is an event that came after it was read:
// a save, a touch or the end of its session. Each such event begins another
// epoch of the session, and what was begun in an earlier one is not kept.
// DeleteUser ends sessions that nobody names, so users have something alike.
type copies struct {
	seed     maphash.Seed
	shards   []shard
	born     time.Time        // with the monotonic clock's reading
	now      func() time.Time // nil: time.Now
	maxStale time.Duration
	limit    time.Duration // MaxStale and StaleIfDown: past it a copy is worth nothing

	deletes atomic.Uint64       // how often DeleteUser was called
	deleted [1024]atomic.Uint64 // which of the calls was the last for a user of this group

	sweeper sweeper
}

// shard is a part of the copies, by the hash of their IDs.
type shard struct {
	*copies
	mu      sync.RWMutex
	records map[string]*copied
	loads   map[string]*sharedLoad
	touches map[string]*sharedTouch
	epochs  [64]uint64 // by the hash of the ID: who shares one loads once too often

	room
}

// copied is one copy. What changes in it does so under the shard's lock.
type copied struct {
	rec     *Record // never changed, only replaced
	checked instant // before the backup was asked
	deletes uint64  // before the backup was asked
	user    int     // its group of users
	asked   int64   // a version that the backup was asked for and will not have while this copy lives
	doubt   bool    // a save may have changed the record since
	failed  instant // when the backup failed, instead of checking it again

	place
}

// operation is a call of the backup: what was known before it.
type operation struct {
	id      string
	at      instant
	epoch   uint64
	deletes uint64
}

// sharedLoad is a load for all who come while it runs.
type sharedLoad struct {
	operation
	version int64 // that the backup is asked for
	done    chan struct{}
	rec     *Record // never changed
	err     error
}

var errSharedPanic = errors.New("session: cached: another request's call of the backup, which this one shared, ended in a panic")

// outcome is what an error says of a call.
type outcome int

const (
	applied outcome = iota
	refused         // by a backup that works
	unknown
)

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return applied
	case errors.Is(err, ErrConflict), errors.Is(err, ErrNotFound):
		return refused
	}
	return unknown
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// covers tells whether a record of version have shows what one of version want
// showed. Migrating counts in two ranges, one for each of its stores, and which
// is the newer of two in different ones the numbers do not tell.
func covers(have, want int64) bool {
	return want <= 0 || have >= want && (have >= fromVersion) == (want >= fromVersion)
}

// outOfReach tells whether a record of version have will not be of version want
// for as long as copies live: somebody invented it, or the session has moved from
// one store to the other. To ask again would be in vain.
func outOfReach(have, want int64) bool {
	const ahead = 1 << 20 // nobody saves a session so often
	return want-ahead > have || want > 0 && (have >= fromVersion) != (want >= fromVersion)
}

func (c *copies) shard(id string) *shard {
	return &c.shards[maphash.String(c.seed, id)%uint64(len(c.shards))]
}

// epoch is where the epoch of a session stands.
func (s *shard) epoch(id string) *uint64 {
	return &s.epochs[maphash.String(s.seed, id)>>32%uint64(len(s.epochs))]
}

func (c *copies) group(user string) int {
	return int(maphash.String(c.seed, user) % uint64(len(c.deleted)))
}

// userDeleted makes worthless what was read of the user's sessions before.
func (c *copies) userDeleted(user string) {
	last := &c.deleted[c.group(user)]
	n := c.deletes.Add(1)
	for {
		old := last.Load()
		if old >= n || last.CompareAndSwap(old, n) {
			return
		}
	}
}

// begin is called before the backup is.
func (s *shard) begin(id string) operation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.operation(id, s.instant())
}

func (s *shard) operation(id string, at instant) operation {
	return operation{id: id, at: at, epoch: *s.epoch(id), deletes: s.deletes.Load()}
}

// overtaken tells whether what op found out may not be true any more.
func (s *shard) overtaken(op operation) bool { return *s.epoch(op.id) != op.epoch }

// look returns the record if there is a copy that may be read. Otherwise it
// returns the load to wait for, or to do if it is the caller's. Who has waited
// in vain waits for no load whose version may let the backup answer from a copy
// of its own that is too old.
func (s *shard) look(id string, version int64, again bool) (rec *Record, l *sharedLoad, mine bool) {
	now := s.instant()
	s.mu.RLock()
	rec = s.read(id, version, now)
	s.mu.RUnlock()
	if rec != nil {
		return rec, nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if rec := s.read(id, version, now); rec != nil { // another's load has just ended
		return rec, nil, false
	}
	if l := s.loads[id]; l != nil && !s.overtaken(l.operation) && l.deletes == s.deletes.Load() && now.since(l.at) < s.maxStale &&
		(!again || covers(l.version, version)) {
		return nil, l, false
	}
	l = &sharedLoad{operation: s.operation(id, now), version: version, done: make(chan struct{})}
	s.loads[id] = l
	return nil, l, true
}

// read returns the record of a copy that may be read now, or nil.
func (s *shard) read(id string, version int64, now instant) *Record {
	c := s.records[id]
	if c == nil || !s.usable(c, version, now) || !s.fresh(c, now) && !s.spared(c, now) {
		return nil
	}
	c.use()
	rec := *c.rec
	return &rec
}

// usable tells whether a copy answers the question, whatever its age is.
func (s *shard) usable(c *copied, version int64, now instant) bool {
	return c.deletes >= s.deleted[c.user].Load() &&
		(covers(c.rec.Version, version) || version == c.asked) &&
		!c.rec.Expired(now.told)
}

func (s *shard) fresh(c *copied, now instant) bool {
	return !c.doubt && now.since(c.checked) < s.maxStale
}

// spared tells whether the backup has just failed to check a copy that may be
// read then: not every request needs to wait for it to fail again.
func (s *shard) spared(c *copied, now instant) bool {
	return !c.failed.wall.IsZero() && now.since(c.failed) < min(s.maxStale, time.Second) && now.since(c.checked) < s.limit
}

// instead returns a copy that StaleIfDown allows in the place of a failure.
func (s *shard) instead(id string, version int64, failure error) (*Record, error) {
	if s.limit == s.maxStale || errors.Is(failure, context.Canceled) {
		return nil, failure
	}
	now := s.instant()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.records[id]
	if c == nil || !s.usable(c, version, now) || now.since(c.checked) >= s.limit {
		return nil, failure
	}
	c.failed = now
	rec := *c.rec
	return &rec, nil
}

// loaded keeps what a load returned, unless it was overtaken. A copy that shows
// less than what somebody has been shown goes all the same.
func (s *shard) loaded(rec *Record, l *sharedLoad, version int64) *Record {
	kept := keep(rec)
	c := &copied{rec: kept, checked: l.at, deletes: l.deletes, user: s.group(kept.User)}
	if outOfReach(kept.Version, version) {
		c.asked = version
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch old := s.records[l.id]; {
	case !s.overtaken(l.operation) && (old == nil || old.checked.monotonic <= l.at.monotonic):
		s.put(c)
	case old != nil && !covers(old.rec.Version, kept.Version):
		s.remove(old)
	}
	return kept
}

// ended drops the copy of what a load did not find.
func (s *shard) ended(l *sharedLoad) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.overtaken(l.operation) {
		s.remove(s.records[l.id])
	}
}

// finish lets those go who wait for the load.
func (s *shard) finish(l *sharedLoad) {
	s.mu.Lock()
	if s.loads[l.id] == l {
		delete(s.loads, l.id)
	}
	s.mu.Unlock()
	close(l.done)
}

// saved keeps what the backup took as the next version of rec.
func (s *shard) saved(rec *Record, op operation) {
	kept := keep(rec)
	kept.Version++
	if !kept.Deadline.IsZero() && kept.Expires.After(kept.Deadline) {
		kept.Expires = kept.Deadline
	}
	c := &copied{rec: kept, checked: op.at, deletes: op.deletes, user: s.group(kept.User)}
	s.mu.Lock()
	defer s.mu.Unlock()
	overtaken := s.overtaken(op)
	*s.epoch(op.id)++
	switch old := s.records[op.id]; {
	case !overtaken:
		s.put(c)
	case old != nil && !covers(old.rec.Version, kept.Version):
		s.remove(old) // what overtook it was not a later save
	}
}

// drop forgets the copy of what this node has changed or ended.
func (s *shard) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.epoch(id)++
	s.remove(s.records[id])
}

// doubted makes the next read ask the backup.
func (s *shard) doubted(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*s.epoch(id)++
	if c := s.records[id]; c != nil {
		c.doubt, c.failed = true, instant{}
	}
}
