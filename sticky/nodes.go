package sticky

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// table is what requests look at; a change makes a new one.
type table struct {
	all      []entry
	ranked   []entry // take new users
	leaving  []entry // alive, as they say, but going
	down     []entry
	weighted bool
	ramps    bool
	pins     map[string]pin
}

// SetNodes makes these the nodes. One that keeps its ID keeps its users, its
// state and its connections, also with another URL or weight. One that is not
// among them gets no request any more; those in flight end in their own time.
func (p *Proxy) SetNodes(nodes []Node) error {
	if err := checkNodes(nodes); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setNodes(nodes, healthNew)
	return nil
}

// Add adds a node, or changes the one that has its ID. Its first users come
// when a check has succeeded.
func (p *Proxy) Add(n Node) error {
	if err := checkNodes([]Node{n}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addNode(n, healthNew)
	p.rebuild()
	return nil
}

// Remove takes a node out; its requests in flight end in their own time. Use
// Drain first to wait for them.
func (p *Proxy) Remove(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodes[id]
	if n == nil {
		return fmt.Errorf("%w: %q", ErrUnknownNode, id)
	}
	p.removeNode(n)
	p.rebuild()
	return nil
}

func (p *Proxy) setNodes(nodes []Node, fresh healthState) {
	keep := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		keep[n.ID] = true
		p.addNode(n, fresh)
	}
	for id, n := range p.nodes {
		if !keep[id] {
			p.removeNode(n)
		}
	}
	p.order = p.order[:0]
	for _, n := range nodes {
		p.order = append(p.order, p.nodes[n.ID])
	}
	p.rebuild()
}

func (p *Proxy) addNode(want Node, fresh healthState) {
	n := p.nodes[want.ID]
	where := &url.URL{Scheme: want.URL.Scheme, Host: want.URL.Host}
	switch {
	case n == nil:
		n = &node{id: want.ID, seed: seedOf(want.ID), health: fresh, since: time.Now()}
		if p.o.Transport == nil {
			n.own = p.newTransport()
		}
		if p.o.Health.Interval < 0 || p.closed {
			n.health = healthUp
		}
		for _, key := range p.o.Keys {
			n.cookies = append(n.cookies, cookieValue(key, n.id))
		}
		n.cookie = n.cookies[0]
		n.where.Store(where)
		p.nodes[n.id] = n
		p.order = append(p.order, n)
		p.startChecks(n)
	case *n.where.Load() != *where:
		n.where.Store(where)
		n.proven = false
		if n.own != nil {
			n.own.CloseIdleConnections()
		}
		p.startChecks(n)
	}
	if n.weight = want.Weight; n.weight == 0 {
		n.weight = 1
	}
	n.maxIn = want.MaxInFlight
	limit := want.MaxInFlight
	if limit == 0 {
		limit = p.o.MaxInFlight
	}
	n.limit.Store(int64(max(limit, 0)))
}

func (p *Proxy) removeNode(n *node) {
	n.removed = true
	n.gate.Store(n.gateOf())
	n.moved.Store(true)
	n.quiet.tell()
	n.stop()
	p.stopTimer(n)
	delete(p.nodes, n.id)
	for i, o := range p.order {
		if o == n {
			p.order = append(p.order[:i:i], p.order[i+1:]...)
			break
		}
	}
	if n.own != nil {
		n.own.CloseIdleConnections()
	}
	p.closeUpgraded(n, p.o.CloseOver)
}

// rebuild makes the table anew, after a change of any node. p.mu is held.
func (p *Proxy) rebuild() {
	t := &table{pins: make(map[string]pin, len(p.order)*len(p.o.Keys))}
	var first float64
	for i, n := range p.order {
		gate := n.gateOf()
		n.gate.Store(gate)
		if i == 0 {
			first = n.weight
		}
		t.weighted = t.weighted || n.weight != first
		e := entry{seed: n.seed, weight: n.weight, node: n, ramp: n.ramp}
		t.all = append(t.all, e)
		switch {
		case gate&takesNew != 0:
			t.ranked = append(t.ranked, e)
			t.ramps = t.ramps || e.ramp != nil
		case gate&takesLast == 0:
		case n.health == healthLeaving:
			t.leaving = append(t.leaving, e)
		default:
			t.down = append(t.down, e)
		}
		for i, c := range n.cookies {
			t.pins[c] = pin{node: n, old: i > 0}
		}
	}
	p.table.Store(t)
}

// startChecks begins the checks of a node, after ending those of its last
// address.
func (p *Proxy) startChecks(n *node) {
	if n.stop != nil {
		n.stop()
	}
	ctx, cancel := context.WithCancel(p.life)
	n.stop = cancel
	if p.o.Health.Interval > 0 && !p.closed {
		p.work.Go(func() { p.checkLoop(ctx, n) })
	}
}
