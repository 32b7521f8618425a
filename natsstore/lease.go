package natsstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// lease ends a lead that may be over. A leader that was cut off, or stood still,
// believes that it leads until it hears of the one that took its place, and what
// reaches it by then it answers with what was before. So a voter steps down by
// itself, before the others can have another leader.
type lease struct {
	node     *Node
	stream   string
	majority func() time.Duration // how long ago it is known to have had one

	looked atomic.Pointer[time.Time] // when the last look began that has ended; nil before keep

	mu    sync.Mutex // held by one who looks, which the server may keep waiting
	leads time.Time  // since when; zero if it does not
}

const (
	// leaseLife is less than the four seconds for which followers at least have
	// not heard of their leader when they elect another
	// (minElectionTimeoutDefault in nats-server/server/raft.go).
	leaseLife = 2500 * time.Millisecond
	leaseLook = 100 * time.Millisecond
)

// newLease returns nil for a node that never leads others.
func newLease(n *Node, stream string, majority func() time.Duration) *lease {
	if n.opts.alone() || n.opts.Role != Voter {
		return nil
	}
	return &lease{node: n, stream: stream, majority: majority}
}

// keep looks until ctx ends.
func (l *lease) keep(ctx context.Context) {
	began := time.Now()
	l.looked.Store(&began)
	tick := time.NewTicker(leaseLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.mu.Lock()
			l.look()
			l.mu.Unlock()
		}
	}
}

// look steps down if this node leads and nothing was acknowledged for as long as
// a lease lives, or nobody looked for as long: then the process stood still.
// mu is held.
func (l *lease) look() (over bool) {
	now, stood := time.Now(), l.overdue()
	defer l.looked.Store(&now)
	switch {
	case !l.node.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, l.stream):
		l.leads = time.Time{}
		return false
	case l.leads.IsZero():
		l.leads = now
	}
	if !stood && (since(l.leads) <= leaseLife || l.majority() <= leaseLife) {
		return false
	}
	l.leads = time.Time{}
	l.node.log.Warn("session: nats: the others may have another leader; this node steps down", "node", l.node.opts.Name)
	_ = l.node.server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, l.stream) // else it has already
	return true
}

func (l *lease) overdue() bool {
	looked := l.looked.Load()
	return looked != nil && since(*looked) > leaseLife
}

// valid is nil if no look is overdue, so that a lead which is over is not asked.
// It does not wait for one that is under way.
func (l *lease) valid() error {
	if l == nil || !l.overdue() {
		return nil
	}
	if !l.mu.TryLock() {
		return errors.New("it is not known whether this node still leads")
	}
	defer l.mu.Unlock()
	if l.overdue() && l.look() {
		return errors.New("this node stood still while it led")
	}
	return nil
}
