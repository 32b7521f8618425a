package natsstore

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nuid"
)

// pulse is this node's heartbeat: a message of its own that goes through the
// stream like every change does.
//
// That one is acknowledged proves that the leader had a majority after it was
// sent, which a leader that was cut off believes of itself for ten seconds. That
// it comes back through the feed proves that the copy has all that was
// acknowledged before it was sent: the stream's heartbeats do not, for they come
// from a follower that may be cut off itself.
type pulse struct {
	link    *link
	subject string
	every   time.Duration
	anew    func() // is told that the stream is not the one it was; nil if nobody asks

	turn chan struct{} // one is sent at a time

	mu    sync.Mutex
	n     uint64
	sent  map[uint64]beat // that have not come back
	acked time.Time       // when the last one was sent that was acknowledged
	seq   uint64          // its place in the stream
	back  time.Time       // when the last one was sent that came back
}

type beat struct {
	at     time.Time
	before time.Time // when one was sent that had come back by then
}

const (
	beats     = 16 // that are waited for
	pulseLife = time.Minute
)

func newPulse(l *link, prefix string, every time.Duration) *pulse {
	return &pulse{link: l, subject: prefix + "b." + nuid.Next(), every: every, turn: make(chan struct{}, 1), sent: map[uint64]beat{}}
}

// beat sends one.
func (p *pulse) beat(ctx context.Context) error {
	return p.beatUnless(ctx, func() bool { return false })
}

// prove sends one, unless another has proved since that the leader had a
// majority no longer than age ago.
func (p *pulse) prove(ctx context.Context, age time.Duration) error {
	return p.beatUnless(ctx, func() bool { return p.majority() <= age })
}

func (p *pulse) beatUnless(ctx context.Context, done func() bool) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if done() {
		return nil
	}
	p.mu.Lock()
	p.n++
	n, at := p.n, time.Now()
	p.sent[n] = beat{at, p.back}
	delete(p.sent, n-beats)
	p.mu.Unlock()
	seq, err := p.link.publish(ctx, p.subject, strconv.AppendUint(nil, n, 10), anyRevision, pulseLife)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.acked = at
	another := seq <= p.seq
	p.seq = seq
	p.mu.Unlock()
	if another && p.anew != nil {
		p.anew()
	}
	return nil
}

// forget is for a copy that begins anew: what came back before says nothing of
// it.
func (p *pulse) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back = time.Time{}
	for n, b := range p.sent {
		p.sent[n] = beat{at: b.at}
	}
}

// majority is how long ago the leader is known to have had one.
func (p *pulse) majority() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return since(p.acked)
}

// came tells what the return of a beat says of the copy: it has all that was
// acknowledged before the moment.
//
// A message that was replaced before the feed came to it is not delivered, and
// what replaced it comes later, maybe after this beat. It was there when the
// feed passed, so it comes before the next beat that is sent: unless nothing is
// pending, only the last one that was sent after another came back counts.
func (p *pulse) came(data []byte, pending uint64) time.Time {
	n, err := strconv.ParseUint(string(data), 10, 64)
	if err != nil {
		return time.Time{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.sent[n]
	if !ok {
		return time.Time{}
	}
	delete(p.sent, n)
	if b.at.After(p.back) {
		p.back = b.at
	}
	if pending == 0 {
		return b.at
	}
	return b.before
}
