package sticky

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// DrainMode says what happens to the users of a node that is drained: Move, or
// Keep for a while.
type DrainMode time.Duration

// Move sends the node's users to the next node in their rank from now on.
const Move DrainMode = 0

// Keep goes on serving those whose cookie names the node, and takes no new
// ones, until d has passed; then it is as Move. Without cookies nobody can tell
// the one from the other, so ByIP and ByKey move at once.
func Keep(d time.Duration) DrainMode { return DrainMode(d) }

// Drain takes a node out of service and returns when nothing is in flight
// there, upgraded connections included; those, and event streams, are closed
// over CloseOver as soon as the users move. It returns ctx's error, wrapped with
// what is left, if that takes longer; the node goes on draining. Shutdown ends
// the wait for the end of Keep, with an error. Once Drain has returned nil, the
// node gets no request until Resume, or a Drain with Keep, not even if it is the
// last one.
func (p *Proxy) Drain(ctx context.Context, id string, mode DrainMode) error {
	p.mu.Lock()
	n := p.nodes[id]
	if n == nil {
		p.mu.Unlock()
		return fmt.Errorf("%w: %q", ErrUnknownNode, id)
	}
	p.drainNode(n, mode)
	resumes := n.resumes.Load()
	p.mu.Unlock()

	resumed := func() bool { return n.resumes.Load() != resumes }
	kept := func() bool { return p.life.Err() != nil && !n.moved.Load() }
	err := n.quiet.wait(ctx, func() bool { return resumed() || kept() || n.moved.Load() && n.inFlight.Load() == 0 })
	switch {
	case resumed():
		return fmt.Errorf("sticky: drain %q: it was resumed", id)
	case kept():
		return fmt.Errorf("sticky: drain %q: its users stay: %w", id, errClosing)
	case err != nil && !n.moved.Load():
		return fmt.Errorf("sticky: drain %q: its users stay for a while: %w", id, err)
	case err != nil:
		return fmt.Errorf("sticky: drain %q: %d requests in flight: %w", id, n.inFlight.Load(), err)
	}
	return nil
}

// drainNode closes the gate, and waits for nothing. p.mu is held.
func (p *Proxy) drainNode(n *node, mode DrainMode) {
	p.stopTimer(n)
	if mode <= 0 || p.o.By.kind != byCookie {
		p.moveNow(n)
		return
	}
	n.drain, n.until = drainKeep, time.Now().Add(time.Duration(mode))
	n.moved.Store(false) // after a Move
	if !p.closed {
		n.timer = time.AfterFunc(time.Duration(mode), func() { p.endKeep(n) })
	}
	p.rebuild()
	p.o.Logger.Info("sticky: the node takes no new users", "node", n.id, "for", time.Duration(mode))
}

func (p *Proxy) moveNow(n *node) {
	if n.drain == drainMove {
		return
	}
	n.drain, n.until = drainMove, time.Time{}
	p.rebuild()
	n.moved.Store(true)
	n.quiet.tell()
	p.closeUpgraded(n, p.o.CloseOver)
	p.o.Logger.Info("sticky: the node is drained, its users move", "node", n.id)
}

// endKeep is the end of Keep's time.
func (p *Proxy) endKeep(n *node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !n.removed && n.drain == drainKeep && !time.Now().Before(n.until) {
		p.moveNow(n)
	}
}

func (p *Proxy) stopTimer(n *node) {
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}

// Resume ends a drain. Without cookies the node's users come back, over
// SlowStart.
func (p *Proxy) Resume(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[id]
	if n == nil {
		return fmt.Errorf("%w: %q", ErrUnknownNode, id)
	}
	p.resumeNode(n)
	return nil
}

func (p *Proxy) resumeNode(n *node) {
	if n.drain == drainNone {
		return
	}
	p.stopTimer(n)
	n.drain, n.until = drainNone, time.Time{}
	n.moved.Store(false)
	n.resumes.Add(1)
	n.quiet.tell()
	p.o.Logger.Info("sticky: the node is resumed", "node", n.id)
	if n.health == healthUp {
		p.startRamp(n)
	}
	p.rebuild()
}

// upgrades are the connections that end only when they are closed.
type upgrades struct {
	mu     sync.Mutex
	closed bool
	open   map[*upgrade]struct{}
}

type upgrade struct {
	node   *node
	cancel context.CancelFunc
}

// add remembers a connection; drop forgets it. If its node has moved its users
// meanwhile, it is closed as theirs were. It is false after Shutdown.
func (p *Proxy) addUpgrade(n *node, cancel context.CancelFunc) (*upgrade, bool) {
	u := &p.upgrades
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, false
	}
	if u.open == nil {
		u.open = make(map[*upgrade]struct{})
	}
	c := &upgrade{n, cancel}
	u.open[c] = struct{}{}
	if n.moved.Load() {
		closeSoon(c, p.o.CloseOver)
	}
	return c, true
}

func (u *upgrades) drop(c *upgrade) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, c)
}

// closeUpgraded closes those of n, all if n is nil, each at a random moment of
// the span.
func (p *Proxy) closeUpgraded(n *node, over time.Duration) {
	u := &p.upgrades
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.open {
		if n == nil || c.node == n {
			closeSoon(c, over)
		}
	}
}

func closeSoon(c *upgrade, over time.Duration) {
	if over <= 0 {
		c.cancel()
		return
	}
	time.AfterFunc(rand.N(over), c.cancel)
}
