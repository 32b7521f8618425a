package sticky

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// rebalancer moves users in cookie mode. Once a second it compares what the
// nodes were asked, and lets so many requests of the busiest change over.
type rebalancer struct {
	plan atomic.Pointer[plan]
	mu   sync.Mutex
	rate float64
	stop context.CancelFunc
	load map[*node]*loadOf
}

type loadOf struct {
	last   int64
	smooth float64 // requests a second, over some seconds
}

// plan is for one second.
type plan struct {
	left    atomic.Int64      // moves
	donors  map[*node]float64 // the part of their users to move
	targets []entry           // weighted by what they lack
}

// A node gives users away when it has a tenth more than its share. Less would
// move users to and fro for chance.
const tolerance = 1.1

// Rebalance moves up to perSecond users a second from nodes with more requests
// than their share to those with the fewest; 0 stops. It is for cookie mode,
// where users do not go home by themselves: after a rolling restart the last
// node has none. A user's session moves with them if it is kept for more than
// one node, and is lost otherwise.
func (p *Proxy) Rebalance(perSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setRebalance(perSecond)
}

// setRebalance starts the loop anew. p.mu is held, so that Shutdown waits for
// every loop that was started.
func (p *Proxy) setRebalance(perSecond float64) {
	m := &p.moving
	if perSecond == m.rate {
		return
	}
	m.rate = perSecond
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != nil {
		m.stop()
		m.stop = nil
	}
	m.plan.Store(nil)
	if !(perSecond > 0) || p.o.By.kind != byCookie || p.closed {
		return
	}
	ctx, cancel := context.WithCancel(p.life)
	m.stop = cancel
	m.load = make(map[*node]*loadOf)
	p.work.Go(func() { p.rebalanceLoop(ctx, min(perSecond, maxRate)) })
}

func (p *Proxy) rebalanceLoop(ctx context.Context, rate float64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var saved float64
	for {
		saved = min(saved+rate, max(rate, 1))
		moves := int64(saved)
		saved -= float64(moves)
		next := p.makePlan(moves)
		p.moving.mu.Lock()
		if ctx.Err() != nil {
			p.moving.mu.Unlock()
			return
		}
		p.moving.plan.Store(next)
		p.moving.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// makePlan is nil if nobody has too much.
func (p *Proxy) makePlan(moves int64) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum, weights float64
	var open []*node
	seen := make(map[*node]*loadOf, len(p.order))
	for _, n := range p.order {
		l := p.moving.load[n]
		total := n.count.requests.Load()
		if l == nil {
			l = &loadOf{last: total}
		}
		l.smooth = 0.6*l.smooth + 0.4*float64(total-l.last)
		l.last = total
		seen[n] = l
		if n.gate.Load()&takesNew != 0 && n.ramp == nil {
			open = append(open, n)
			sum += l.smooth
			weights += n.weight
		}
	}
	p.moving.load = seen
	if len(open) < 2 || sum == 0 || moves == 0 {
		return nil
	}
	next := &plan{donors: make(map[*node]float64)}
	next.left.Store(moves)
	for _, n := range open {
		has, share := seen[n].smooth, sum*n.weight/weights
		switch {
		case has > share*tolerance:
			next.donors[n] = (has - share) / has
		case has < share:
			next.targets = append(next.targets, entry{seed: n.seed, weight: share - has, node: n})
		}
	}
	if len(next.donors) == 0 || len(next.targets) == 0 {
		return nil
	}
	return next
}

// target is the node that x's user moves to now, nil to stay.
func (m *rebalancer) target(from *node, x *exchange) *node {
	next := m.plan.Load()
	if next == nil {
		return nil
	}
	part, ok := next.donors[from]
	if !ok || next.left.Load() <= 0 || rand.Float64() >= part || isUpgrade(x.in.Header) {
		return nil
	}
	if next.left.Add(-1) < 0 {
		return nil
	}
	return rank(next.targets, true, random(), nil, time.Time{})
}
