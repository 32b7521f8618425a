package natsstore

import (
	"sync"
	"time"

	"github.com/distsession/session"
)

// localCopy is this node's copy of the sessions. What it holds is fed by the
// stream, in order; what this node has just read or written itself may stand
// there before the stream brings it, and only before: past that point the
// stream may have brought what came later, so that an entry put in late would
// be wrong for ever.
type localCopy struct {
	mu      sync.RWMutex
	entries map[string]copied
	seq     uint64    // up to here the stream has been read
	began   time.Time // when it was read from its beginning
	as      time.Time // the copy has all that was acknowledged before; zero: nothing is known
	moved   chan struct{}
}

// copied is one session, as the message with this sequence has it.
type copied struct {
	rec *session.Record // never changed; nil if the session was ended
	seq uint64
}

func newCopy() *localCopy {
	return &localCopy{entries: map[string]copied{}, began: time.Now(), moved: make(chan struct{})}
}

// get returns a session, nil if it is not known, and how old the copy is: the
// longest time for which a change may have been acknowledged elsewhere without
// standing here. The age is measured after the session was read, or a process
// that was stopped in between would trust what it read before.
func (c *localCopy) get(id string) (*session.Record, time.Duration) {
	c.mu.RLock()
	rec, as := c.entries[id].rec, c.as
	c.mu.RUnlock()
	return rec, since(as)
}

// since is how long ago a moment was by the clock that shows more. The
// monotonic one stands still while the machine sleeps, and the other may be set
// back.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return forever
	}
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

const forever = time.Duration(1<<63 - 1)

// feed puts in what the stream brings.
func (c *localCopy) feed(id string, rec *session.Record, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq = max(c.seq, seq)
	if id == "" || c.entries[id].seq > seq {
		return
	}
	if rec == nil {
		delete(c.entries, id) // all that comes is newer
		return
	}
	c.entries[id] = copied{rec, seq}
}

// see puts in what this node has read or written, if the stream has not come so
// far.
func (c *localCopy) see(id string, rec *session.Record, seq uint64) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq > c.seq && seq > c.entries[id].seq {
		c.entries[id] = copied{rec, seq}
	}
}

// reached notes that the copy has all that was acknowledged before t; the zero t
// says nothing.
func (c *localCopy) reached(t time.Time) {
	if t.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.as) {
		c.as = t
		close(c.moved)
		c.moved = make(chan struct{})
	}
}

// state tells how far the copy is, and returns a channel that is closed when it
// is known to be further.
func (c *localCopy) state() (as time.Time, seq uint64, moved <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.as, c.seq, c.moved
}

// read tells up to where the stream has been read, and for how long what ended
// since may not have been heard of.
func (c *localCopy) read() (seq uint64, age time.Duration) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.seq, min(since(c.began), since(c.as))
}

// clear forgets everything.
func (c *localCopy) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries, c.seq, c.began, c.as = map[string]copied{}, 0, time.Now(), time.Time{}
}

// sweep removes what has expired.
func (c *localCopy) sweep(now time.Time) {
	c.mu.RLock()
	var over []string
	for id, e := range c.entries {
		if e.rec != nil && e.rec.Expired(now) || e.rec == nil && e.seq <= c.seq {
			over = append(over, id)
		}
	}
	c.mu.RUnlock()
	for _, id := range over {
		c.mu.Lock()
		if e := c.entries[id]; e.rec != nil && e.rec.Expired(now) || e.rec == nil && e.seq <= c.seq {
			delete(c.entries, id)
		}
		c.mu.Unlock()
	}
}

// live counts the sessions that have not expired at now, without markers.
func (c *localCopy) live(now time.Time) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	for _, e := range c.entries {
		if e.rec != nil && !e.rec.Replaced && !e.rec.Expired(now) {
			n++
		}
	}
	return n
}
