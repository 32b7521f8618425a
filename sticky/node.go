package sticky

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// node is a Node at work. What changes under load is atomic; what the rest
// changes is guarded by Proxy.mu.
type node struct {
	id    string
	seed  uint64
	stop  context.CancelFunc // of its checks
	where atomic.Pointer[url.URL]
	limit atomic.Int64 // in flight; 0: none
	gate  atomic.Uint32
	own   *http.Transport // nil if Options.Transport is set

	inFlight atomic.Int64
	upgraded atomic.Int64
	count    counters
	quiet    quiet
	moved    atomic.Bool  // drained for good, or removed: the gate is closed
	resumes  atomic.Int32 // ends of drains
	fails    window

	// Guarded by Proxy.mu.
	weight  float64
	maxIn   int // as in Node
	health  healthState
	proven  bool // a check has succeeded once
	okRun   int
	failRun int
	since   time.Time // of health
	reason  string    // of health, for people
	ramp    *ramp
	drain   drainState
	until   time.Time // of drainKeep
	timer   *time.Timer
	filed   string // the drain that the configuration file last asked for
	removed bool
	cookie  string // newest
	cookies []string
}

type healthState uint8

const (
	healthUp      healthState = iota
	healthNew                 // added, not checked yet
	healthLeaving             // its health path says 503
	healthDown
)

type drainState uint8

const (
	drainNone drainState = iota
	drainKeep
	drainMove
)

// What a node takes now.
const (
	takesNew    = 1 << iota // users who belong nowhere yet, or elsewhere
	takesPinned             // users whose cookie names it
	takesLast               // anybody, if nobody else is left
)

// gateOf is what the state allows.
func (n *node) gateOf() uint32 {
	switch {
	case n.removed || n.drain == drainMove:
		return 0
	case n.health != healthUp && n.drain == drainKeep:
		return 0
	case n.health != healthUp:
		return takesLast
	case n.drain == drainKeep:
		return takesPinned
	}
	return takesNew | takesPinned | takesLast
}

// enter takes a place on the node. The gate is looked at again after it was
// taken: so once a drain has closed the gate and seen nothing in flight,
// nothing comes any more.
func (n *node) enter(gate uint32) entrance {
	in := n.inFlight.Add(1)
	if n.gate.Load()&gate == 0 {
		n.leave()
		return closed
	}
	if limit := n.limit.Load(); limit > 0 && in > limit {
		n.leave()
		n.count.overflows.Add(1)
		return full
	}
	return entered
}

type entrance uint8

const (
	entered entrance = iota
	closed
	full
)

func (n *node) leave() {
	if n.inFlight.Add(-1) == 0 {
		n.quiet.tell()
	}
}

// quiet wakes those who wait for a node, or the proxy, to have nothing in flight.
type quiet struct {
	waiting atomic.Int32
	mu      sync.Mutex
	ch      chan struct{}
}

func (q *quiet) tell() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ch != nil {
		close(q.ch)
		q.ch = nil
	}
}

// wait returns when cond holds; whoever makes it hold tells.
func (q *quiet) wait(ctx context.Context, cond func() bool) error {
	q.waiting.Add(1)
	defer q.waiting.Add(-1)
	for {
		q.mu.Lock()
		if q.ch == nil {
			q.ch = make(chan struct{})
		}
		ch := q.ch
		q.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// window counts failures of the last while, in a row.
type window struct {
	some atomic.Bool
	mu   sync.Mutex
	at   []time.Time
}

// add tells whether there were now as many as limit within the span.
func (w *window) add(now time.Time, limit int, span time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.at) == limit {
		w.at = append(w.at[:0], w.at[1:]...)
	}
	w.at = append(w.at, now)
	w.some.Store(true)
	return len(w.at) == limit && now.Sub(w.at[0]) <= span
}

func (w *window) clear() {
	if !w.some.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at[:0]
	w.some.Store(false)
}
