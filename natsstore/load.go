package natsstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distsession/session"
)

// stored is a record as it stands in the stream.
type stored struct {
	*session.Record
	trail session.Trail
	seq   uint64
}

// tag is what Load leaves for Save.
type tag struct {
	id       string
	version  int64
	seq      uint64
	trail    session.Trail
	user     string
	expires  time.Time // the earlier of Expires and Deadline
	deadline time.Time
}

func newTag(r *session.Record, trail session.Trail, seq uint64) *tag {
	return &tag{id: r.ID, version: r.Version, seq: seq, trail: trail, user: r.User, expires: end(r), deadline: r.Deadline}
}

// end is when a record ends.
func end(r *session.Record) time.Time {
	if !r.Deadline.IsZero() && r.Deadline.Before(r.Expires) {
		return r.Deadline
	}
	return r.Expires
}

// look reads a record at the leader. ErrNotFound if it is not there, has
// expired, or cannot be decoded.
func (s *Store) look(ctx context.Context, id string) (*stored, error) {
	m, err := s.peek(ctx, s.subject(id))
	switch {
	case errors.Is(err, errNone):
		return nil, session.ErrNotFound
	case err != nil:
		return nil, err
	case len(m.Data) == 0:
		s.copy.see(tokenOf(id), nil, m.Seq)
		return nil, session.ErrNotFound
	}
	rec, trail, err := session.DecodeRecord(id, m.Data)
	if err != nil {
		return nil, err
	}
	rec.Tag = newTag(rec, trail, m.Seq)
	s.copy.see(tokenOf(id), rec, m.Seq)
	if rec.Expired(s.now()) {
		return nil, session.ErrNotFound
	}
	return &stored{rec, trail, m.Seq}, nil
}

// peek reads the last message of a subject at the leader.
func (s *Store) peek(ctx context.Context, subject string) (*message, error) {
	if err := s.led(ctx); err != nil {
		return nil, err
	}
	return s.link.last(ctx, subject)
}

// led is nil if the leader is known to have had a majority no longer than
// MaxStale ago. One that is cut off believes for ten seconds that it leads, and
// would answer with ended sessions.
func (s *Store) led(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if s.pulse.majority() <= s.opts.MaxStale {
		return nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	return s.pulse.prove(ctx, s.opts.MaxStale)
}

// Load implements session.Store.
func (s *Store) Load(ctx context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	id := session.ID(token)
	if rec := s.known(id); rec != nil {
		return rec, nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	var rec *session.Record
	var err error
	if s.copy == nil {
		rec, err = s.leaders(ctx, id)
	} else {
		rec, err = s.asks.do(ctx, id, s.leaders)
	}
	return rec, loadError(err)
}

// known returns a live session from the copy, nil if it has none or may be too
// old.
func (s *Store) known(id string) *session.Record {
	if s.copy == nil {
		return nil
	}
	rec, age := s.copy.get(id)
	if rec == nil || age > s.opts.MaxStale || rec.Expired(s.now()) {
		return nil
	}
	own := *rec
	return &own
}

// leaders returns the record that the leader has.
func (s *Store) leaders(ctx context.Context, id string) (*session.Record, error) {
	r, err := s.look(ctx, id)
	if err != nil {
		return nil, err
	}
	own := *r.Record // the copy has it too
	return &own, nil
}

func loadError(err error) error {
	if errors.Is(err, session.ErrNotFound) {
		return err
	}
	return failed("load", err)
}

// LoadAtLeast implements session.AtLeaster: if the copy is older than version it
// returns what the leader has.
func (s *Store) LoadAtLeast(ctx context.Context, token string, version int64) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	id := session.ID(token)
	if rec := s.known(id); rec != nil && rec.Version >= version {
		return rec, nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	leave, err := s.asks.enter(ctx)
	if err != nil {
		return nil, loadError(err)
	}
	defer leave()
	rec, err := s.leaders(ctx, id)
	return rec, loadError(err)
}

// asks are the questions to the leader that come of loads. Those for one
// session that are made at once share one, and there are only so many at a time,
// or clients that invent tokens would keep the leader busy for everyone.
//
// A shared answer may have been read before the caller asked, by limit at most.
// That never makes a new session ErrNotFound: nobody can ask for a token before
// it is issued. What this node itself has done since is no secret to the caller:
// every write ends the sharing.
type asks struct {
	limit time.Duration // of one question
	turn  chan struct{}

	mu   sync.Mutex
	open map[string]*question
}

type question struct {
	done chan struct{}
	rec  *session.Record
	err  error
}

const maxAsks = 64

func newAsks(limit time.Duration) *asks {
	return &asks{limit: limit, turn: make(chan struct{}, maxAsks), open: map[string]*question{}}
}

// enter waits for a turn.
func (a *asks) enter(ctx context.Context) (leave func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w while %d others ask the leader", ctx.Err(), maxAsks)
	}
}

// do returns what f does for this ID. f goes on without a caller that leaves.
func (a *asks) do(ctx context.Context, id string, f func(context.Context, string) (*session.Record, error)) (*session.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	q := a.open[id]
	if q == nil {
		q = &question{done: make(chan struct{})}
		a.open[id] = q
		go a.answer(q, id, f)
	}
	a.mu.Unlock()
	select {
	case <-q.done:
		if q.err != nil {
			return nil, q.err
		}
		own := *q.rec
		return &own, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (a *asks) answer(q *question, id string, f func(context.Context, string) (*session.Record, error)) {
	ctx, cancel := background(a.limit)
	defer cancel()
	leave, err := a.enter(ctx)
	if err == nil {
		q.rec, err = f(ctx, id)
		leave()
	}
	q.err = err
	a.mu.Lock()
	if a.open[id] == q {
		delete(a.open, id)
	}
	a.mu.Unlock()
	close(q.done)
}

// part makes who asks from now on ask anew: what was asked before may have been
// answered before this node wrote.
func (a *asks) part(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.open, id)
}
