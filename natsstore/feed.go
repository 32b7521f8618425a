package natsstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// markerLife is how long the message that ends a session stays in the
	// stream, for the nodes that are away. One that was away for half as long
	// reads everything again.
	markerLife = 2 * time.Hour
	feedAhead  = 2000                   // messages that the client asks for at a time
	feedBytes  = 8 << 20                // and no more than this; a message is smaller
	feedQuiet  = 500 * time.Millisecond // the server's own heartbeat; the shortest that there is
)

// follow keeps the copy up to date until ctx ends.
func (s *Store) follow(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		began := time.Now()
		err := s.read(ctx)
		if ctx.Err() != nil {
			return
		}
		s.log.Debug("session: nats: the feed broke", "error", err)
		if time.Since(began) > feedQuiet {
			n = 0
		}
		backoff(ctx, n)
	}
}

// read reads the stream from where the copy stands; from the beginning where it
// has nothing or is too old.
//
// It asks for every subject and passes over what it does not need. With a filter
// the server searches the whole block of its file, of 14,000 sessions, for each
// message wherever something was deleted (firstMatchingMulti in nats-server's
// filestore.go): a few dozen messages a second, fewer than clients write.
func (s *Store) read(ctx context.Context) error {
	config := jetstream.OrderedConsumerConfig{
		DeliverPolicy:     jetstream.DeliverAllPolicy, // the bucket has no history
		InactiveThreshold: 30 * time.Second,
		MaxResetAttempts:  1,
	}
	select {
	case <-s.restart:
		s.forget()
	default:
	}
	if seq, age := s.copy.read(); seq > 0 && age < s.away {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq+1
	} else {
		s.forget()
	}
	setup, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := s.js.OrderedConsumer(setup, s.link.stream, config)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(feedAhead, feedBytes), jetstream.PullHeartbeat(feedQuiet))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		// The pulse comes back through here, or the feed is no good.
		next, cancel := context.WithTimeout(ctx, 2*s.pulse.every+feedQuiet)
		m, err := messages.Next(jetstream.NextContext(next))
		cancel()
		if err != nil {
			return err
		}
		if s.hold != nil {
			s.hold(ctx)
		}
		select {
		case <-s.restart:
			s.forget()
			return errors.New("the stream begins anew")
		default:
		}
		if err := s.apply(m); err != nil {
			return err
		}
	}
}

// forget empties the copy: the stream is read from its beginning.
func (s *Store) forget() {
	s.pulse.forget()
	s.copy.clear()
}

// apply puts one message into the copy.
func (s *Store) apply(m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	seq := meta.Sequence.Stream
	if at, age := s.copy.read(); at > 0 && age >= s.away {
		s.forget() // it was away for too long
		return fmt.Errorf("the copy is %v old", age)
	}
	var (
		rec  *session.Record
		beat []byte
	)
	id, ok := strings.CutPrefix(m.Subject(), s.prefix+"r.")
	switch data := m.Data(); {
	case m.Subject() == s.pulse.subject: // the others have their own
		beat = data
	case ok && len(data) > 0:
		// What cannot be decoded is not in the copy, and the leader tells why.
		if r, trail, err := session.DecodeRecord(idOf(id), data); err == nil {
			rec = r
			rec.Tag = newTag(r, trail, seq)
		}
	}
	if !ok {
		id = ""
	}
	s.copy.feed(id, rec, seq)
	s.copy.reached(s.pulse.fed(meta.Consumer, beat, meta.NumPending))
	return nil
}
