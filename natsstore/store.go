package natsstore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options configure a Store.
type Options struct {
	// Bucket is the key-value bucket that holds the sessions. If "", it is
	// "sessions". It is made if it is not there.
	Bucket string

	// Replicas is how many servers hold the bucket, of servers that run by
	// themselves. If 0, a bucket that is made gets 3 where the servers are a
	// cluster and 1 where there is one, and one that is there has what it has,
	// unless that is not enough. A bucket with another number is ErrConfig.
	Replicas int

	// Memory says that servers that run by themselves hold the bucket in their
	// memory: when all have ended every session has. A node knows from its
	// Durability.
	Memory bool

	// Consistency says where loads come from; the zero value is Strong.
	Consistency Consistency

	// MaxStale bounds how old an answer may be: with Local always, and with
	// Strong while the network is in parts. If 0, it is 5 seconds; at least half a
	// second.
	MaxStale time.Duration

	// Now is the clock; nil is time.Now. It decides what has expired, and
	// nothing else.
	Now func() time.Time

	memory bool
}

// Consistency says where loads come from.
type Consistency int

const (
	// Strong asks the leader at every load: it has every change that was
	// acknowledged anywhere.
	Strong Consistency = iota

	// Local answers from this node's own copy, which has every change that this
	// node made and whatever the others did longer than MaxStale ago, mostly
	// milliseconds. A session that the copy does not have, and all while the
	// copy is older, are asked of the leader.
	Local
)

func (c Consistency) String() string {
	if c == Local {
		return "local"
	}
	return "strong"
}

const (
	defaultBucket   = "sessions"
	defaultMaxStale = 5 * time.Second
	leastMaxStale   = 500 * time.Millisecond
	maxBucket       = 64
	maxID           = 512
)

// Store keeps sessions in a bucket. Its methods are those of session.Store,
// session.AtLeaster, session.Toucher, session.Lister, session.UserDeleter and
// session.Scanner, and what an operator asks: Ready, Status.
type Store struct {
	opts   Options
	prefix string // of subjects
	link   *link
	js     jetstream.JetStream
	pulse  *pulse
	copy   *localCopy // nil with Strong
	asks   *asks
	now    func() time.Time
	log    *slog.Logger

	node     *Node // nil: servers that run by themselves
	lease    *lease
	state    *nodeState
	own      bool // the connection is ours to close
	ownsNode bool // Open made the node as well

	prepared atomic.Pointer[error] // nil: not yet; to nil: the bucket is as it must be
	trouble  atomic.Pointer[error] // what came of the last look at the bucket
	restart  chan struct{}
	hold     func(context.Context) // for tests: holds the feed back
	underway time.Duration         // an index entry that is younger stays without its record
	away     time.Duration         // a copy that is older begins anew

	stop  context.CancelFunc
	done  sync.WaitGroup
	close sync.Once
}

// New returns a store in a bucket of the servers that nc is connected to; opts
// may be nil. The connection is yours to close, after the store. It should be
// made with RetryOnFailedConnect, ReconnectBufSize(-1) and a PingInterval of
// seconds, as Open does.
//
// New waits for the servers no longer than ctx allows, and two seconds at most:
// if they do not answer yet the store goes on trying, and Ready tells when it
// can serve. ErrConfig if they have a bucket that does not fit.
func New(ctx context.Context, nc *nats.Conn, opts *Options) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.memory = o.Memory
	s, err := newStore(nc, &o)
	if err != nil {
		return nil, err
	}
	if err := s.first(ctx); err != nil {
		return nil, err
	}
	s.start()
	return s, nil
}

func newStore(nc *nats.Conn, o *Options) (*Store, error) {
	bucket := cmp.Or(o.Bucket, defaultBucket)
	s := &Store{
		opts:    *o,
		prefix:  "$KV." + bucket + ".",
		link:    &link{nc: nc, stream: "KV_" + bucket},
		now:     o.Now,
		log:     slog.Default(),
		restart: make(chan struct{}, 1),

		underway: underway,
		away:     markerLife / 2,
	}
	s.opts.MaxStale = cmp.Or(o.MaxStale, defaultMaxStale)
	switch {
	case nc == nil:
		return nil, configError("the connection is nil; make one with nats.Connect, or open a nats:// URL")
	case len(bucket) > maxBucket || strings.ContainsFunc(bucket, func(c rune) bool { return c == '.' || badName(c) }):
		return nil, configError("Bucket takes at most %d letters, digits, dashes and underscores", maxBucket)
	case o.Replicas < 0 || o.Replicas == 2 || o.Replicas > 5:
		return nil, configError("Replicas is 1, 3, 4 or 5: with 2 the bucket stops when either is down")
	case o.Consistency != Strong && o.Consistency != Local:
		return nil, configError("Consistency is Strong or Local")
	case s.opts.MaxStale < leastMaxStale:
		return nil, configError("MaxStale is %v; it takes at least %v", s.opts.MaxStale, leastMaxStale)
	}
	if s.now == nil {
		s.now = time.Now
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, configError("the connection cannot be used for JetStream; give one that nats.Connect made: %w", err)
	}
	s.js = js
	s.pulse = newPulse(s.link, s.prefix, min(s.opts.MaxStale/5, time.Second))
	s.asks = newAsks(min(tryLimit, s.opts.MaxStale))
	if o.Consistency == Local {
		s.copy, s.pulse.anew = newCopy(), s.anew
	}
	return s, nil
}

// first prepares the bucket if the servers answer.
func (s *Store) first(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	err := s.prepare(ctx)
	if errors.Is(err, errUnfit) {
		return configError("%w", err)
	}
	s.note(err)
	if err == nil {
		s.prepared.Store(&err)
	}
	return nil
}

// note keeps what came of a look at the bucket, for those who ask why the store
// does not serve, and logs it unless it is what came of the last one.
func (s *Store) note(err error) {
	last := s.trouble.Swap(&err)
	switch {
	case err == nil || last != nil && *last != nil && (*last).Error() == err.Error():
	case errors.Is(err, errUnfit):
		s.log.Error("session: nats: " + err.Error())
	default:
		s.log.Warn("session: nats: the bucket cannot be used yet", "bucket", s.bucket(), "error", err)
	}
}

// because adds to a reason what came of the last look at the bucket. It is the
// text alone: a deadline in it was that look's own, and no caller's.
func (s *Store) because(reason string) error {
	if last := s.trouble.Load(); last != nil && *last != nil {
		reason += ": " + (*last).Error()
	}
	return errors.New(reason)
}

func (s *Store) bucket() string { return s.link.stream[len("KV_"):] }

// start begins what runs until Close.
func (s *Store) start() {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done.Go(func() { s.run(ctx) })
}

func (s *Store) run(ctx context.Context) {
	if !s.prepareLater(ctx) {
		return
	}
	if s.lease != nil {
		s.done.Go(func() { s.lease.keep(ctx) })
	}
	if s.state != nil {
		s.done.Go(func() { s.state.keep(ctx) })
	}
	if s.copy != nil {
		s.done.Go(func() { s.follow(ctx) })
		s.done.Go(func() { s.sweep(ctx) })
	}
	tick := time.NewTicker(s.pulse.every)
	defer tick.Stop()
	for {
		// Its answer is good however late it comes: what counts is when it was sent.
		beat, cancel := context.WithTimeout(ctx, s.opts.MaxStale)
		err := s.pulse.beat(beat)
		cancel()
		if err != nil {
			s.recheck(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// recheck looks whether the bucket is still there, and makes it again if all
// voters have forgotten it: kept in memory it does not outlive them.
func (s *Store) recheck(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	if err := s.prepare(look); ctx.Err() == nil {
		s.note(err)
	}
}

// anew makes the feed read the stream from its beginning: it is another one
// than it was, so that the places of messages mean nothing any more.
func (s *Store) anew() {
	s.log.Warn("session: nats: the bucket was made anew; the copy begins anew too")
	select {
	case s.restart <- struct{}{}:
	default:
	}
}

// prepareLater prepares the bucket as soon as the servers answer; false if ctx
// ends first.
func (s *Store) prepareLater(ctx context.Context) bool {
	pause := nextCheck
	for s.prepared.Load() == nil || *s.prepared.Load() != nil {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.prepare(try)
		cancel()
		if ctx.Err() != nil {
			return false
		}
		s.note(err)
		unfit := errors.Is(err, errUnfit)
		if unfit {
			pause = slowCheck // it may be mended
		}
		if err == nil || unfit {
			s.prepared.Store(&err)
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
	return true
}

const sweepEvery = time.Minute

func (s *Store) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.copy.sweep(s.now())
		}
	}
}

// Node is the node that session.Open made for the store, or that it was opened
// on; nil where the servers run by themselves. Whoever opened the store by URL
// stops the application with Node().Shutdown, which hands over and closes both.
func (s *Store) Node() *Node { return s.node }

// usable is nil once the bucket is known to be as it must be.
func (s *Store) usable() error {
	switch err := s.prepared.Load(); {
	case err == nil:
		return s.because("the bucket is not reached yet")
	case *err != nil:
		return *err
	}
	return s.lease.valid()
}

// Close ends the store: its goroutines, and the connection and the node if Open
// made them. It stops a node at once; Node().Shutdown does it with care.
func (s *Store) Close() error {
	s.end()
	if s.ownsNode {
		return s.node.Close()
	}
	return nil
}

// end is Close, but for the node, which ends its stores itself.
func (s *Store) end() {
	s.close.Do(func() {
		s.stop()
		s.done.Wait()
		if s.own {
			s.link.nc.Close()
		}
		if s.node != nil {
			s.node.forget(s)
		}
	})
}

// subject is where a record stands. What session.ID did not make is encoded, so
// that it cannot hold anything.
func (s *Store) subject(id string) string { return s.prefix + "r." + tokenOf(id) }

func tokenOf(id string) string {
	if session.WellFormed(id) { // an ID has a token's shape
		return id
	}
	return "x." + base64.RawURLEncoding.EncodeToString([]byte(id))
}

// idOf is the ID of a record that stands at this token, "" if it is none.
func idOf(token string) string {
	if encoded, ok := strings.CutPrefix(token, "x."); ok {
		id, err := base64.RawURLEncoding.DecodeString(encoded)
		if err != nil {
			return ""
		}
		return string(id)
	}
	return token
}

// userSubject begins the entries of a user's sessions. The name is hashed so
// that it cannot hold anything, or be too long, and shows no mail address.
func (s *Store) userSubject(user string) string {
	sum := sha256.Sum256([]byte(user))
	return s.prefix + "u." + base64.RawURLEncoding.EncodeToString(sum[:]) + "."
}

// failed names what failed. What the caller must tell apart stays as it is.
func failed(act string, err error) error {
	if err == nil || err == session.ErrNotFound || err == session.ErrConflict {
		return err
	}
	return fmt.Errorf("session: nats: %s: %w", act, err)
}

var (
	_ session.Store       = (*Store)(nil)
	_ session.AtLeaster   = (*Store)(nil)
	_ session.Toucher     = (*Store)(nil)
	_ session.Lister      = (*Store)(nil)
	_ session.UserDeleter = (*Store)(nil)
	_ session.Scanner     = (*Store)(nil)
	_ io.Closer           = (*Store)(nil)
)
