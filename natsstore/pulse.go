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
// it has come back through the feed when the feed is at the stream's end proves
// that the copy has all that was acknowledged before it was sent: the stream's
// own heartbeats do not, for they come from a follower that may be cut off
// itself.
type pulse struct {
	link    *link
	subject string
	every   time.Duration
	anew    func() // is told that the stream is not the one it was; nil if nobody asks

	turn chan struct{} // one is sent at a time

	mu    sync.Mutex
	n     uint64
	sent  map[uint64]time.Time // that have not come back
	acked time.Time            // when the last one was sent that was acknowledged
	seq   uint64               // its place in the stream
	by    string               // the consumer that brought the last message; "" for none
	back  time.Time            // when the newest one was sent that it brought back
}

const (
	beats     = 16 // that are waited for
	pulseLife = time.Minute
)

func newPulse(l *link, prefix string, every time.Duration) *pulse {
	return &pulse{link: l, subject: prefix + "b." + nuid.Next(), every: every, turn: make(chan struct{}, 1), sent: map[uint64]time.Time{}}
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
	p.sent[n] = at
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
	p.by, p.back = "", time.Time{}
}

// majority is how long ago the leader is known to have had one.
func (p *pulse) majority() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return since(p.acked)
}

// fed tells what a message that this consumer of the stream has brought says of
// the copy: it has all that was acknowledged before the moment. The zero time
// says nothing. beat is the message's text if it is one of the pulse's own.
//
// The stream keeps the last message of a subject. One that was replaced before
// the feed came to it is not delivered, and what replaced it comes later: maybe
// after any number of beats, if the session is written more often than the feed
// is late. Only where nothing is pending behind a message has the feed brought
// all that there is, whatever the message is. Then the newest beat that has come
// tells how new that is.
//
// Another consumer may be on another server, which may be behind. Where it goes
// on from where the last one was, what counts are the beats that are sent from
// then on: what the last one did not bring, because it was replaced, is before
// them.
func (p *pulse) fed(by string, beat []byte, pending uint64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by != p.by {
		if p.by != "" {
			p.back = time.Time{}
			clear(p.sent)
		}
		p.by = by
	}
	if n, err := strconv.ParseUint(string(beat), 10, 64); err == nil {
		if at := p.sent[n]; at.After(p.back) {
			p.back = at
		}
		delete(p.sent, n)
	}
	if pending > 0 {
		return time.Time{}
	}
	return p.back
}
