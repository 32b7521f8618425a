package natsstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Ready is nil when this node can serve: the bucket is there and as it must be,
// changes are acknowledged by a majority, a voter has caught up with the others
// (and had every change within the last two seconds), and with Local the copy is complete and no older than MaxStale. Otherwise it
// tells what is missing. It answers from what is known and waits for nothing;
// WaitReady does.
//
// In a rolling restart stop the next node only when the last one is ready.
func (s *Store) Ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return failed("not ready", s.ready())
}

func (s *Store) ready() error {
	if err := s.usable(); err != nil {
		return err
	}
	if age := s.pulse.majority(); age > s.opts.MaxStale {
		return s.because("no change was acknowledged lately: a majority of the voters is not reached")
	}
	if s.state != nil {
		if err := s.state.current(); err != nil {
			return err
		}
	}
	if s.copy != nil {
		as, _, _ := s.copy.state()
		switch age := since(as); {
		case as.IsZero():
			return errors.New("the copy is not complete yet")
		case age > s.opts.MaxStale:
			return fmt.Errorf("the copy is %v old", age.Round(time.Millisecond))
		}
	}
	return nil
}

// WaitReady waits until Ready is nil, or ctx ends: then it tells what was
// missing.
func (s *Store) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.Ready(context.WithoutCancel(ctx))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// ReadyHandler tells a load balancer whether to send requests here: 200 or 503,
// with the reason.
func (s *Store) ReadyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := s.Ready(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ready")
	})
}

// Sync waits until loads on this node show every change that was acknowledged
// anywhere before the call. With Strong they always do.
func (s *Store) Sync(ctx context.Context) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	return failed("sync", s.sync(ctx))
}

func (s *Store) sync(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	if s.copy == nil {
		return nil
	}
	for began := time.Now(); ; {
		as, _, moved := s.copy.state()
		if !as.Before(began) {
			return nil
		}
		if err := s.pulse.beat(ctx); err != nil {
			return err
		}
		t := time.NewTimer(s.pulse.every) // another may have taken its place, or the feed another server's
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: the copy is %v old", ctx.Err(), since(as))
		case <-moved:
		case <-t.C:
		}
		t.Stop()
	}
}

// Status is what a node knows of itself and the others.
type Status struct {
	Node        string        // this node's name, "" of a store without one
	Role        Role          // this node's
	Bucket      string        // the bucket
	Consistency Consistency   // of loads
	Ready       error         // what Ready says
	Sequence    uint64        // how far the copy has read the stream; 0 with Strong
	Stale       time.Duration // how old the copy is; below 0 if it has nothing yet, or with Strong
	Sessions    int           // live sessions in the copy; below 0 with Strong
	Leader      string        // who leads; "" if it is not known
	LastSeq     uint64        // how far the stream is, at the leader; 0 if it is not known
	Voters      []VoterStatus // the leader first; empty if it is not known
}

// VoterStatus is what the leader knows of a voter.
type VoterStatus struct {
	Name    string
	Leader  bool
	Current bool          // has all that the leader has, but for what is on its way
	Offline bool          // is not connected
	Active  time.Duration // when the leader last heard of it
	Lag     uint64        // changes that it has not got
}

// Status tells how this node and, if the leader answers before ctx ends, the
// others are.
func (s *Store) Status(ctx context.Context) Status {
	st := Status{
		Bucket: s.bucket(), Consistency: s.opts.Consistency,
		Ready: s.Ready(ctx), Stale: -1, Sessions: -1,
	}
	if s.node != nil {
		st.Node, st.Role = s.node.opts.Name, s.node.opts.Role
	}
	if s.copy != nil {
		var as time.Time
		if as, st.Sequence, _ = s.copy.state(); !as.IsZero() {
			st.Stale = since(as)
		}
		st.Sessions = s.copy.live(s.now())
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	info, err := s.link.info(ctx, "", 0)
	if err != nil {
		return st
	}
	st.LastSeq = info.State.LastSeq
	if info.Cluster == nil {
		st.Leader = st.Node
		return st
	}
	st.Leader = info.Cluster.Leader
	if st.Leader != "" {
		st.Voters = append(st.Voters, VoterStatus{Name: st.Leader, Leader: true, Current: true})
	}
	for _, r := range info.Cluster.Replicas {
		st.Voters = append(st.Voters, VoterStatus{Name: r.Name, Current: r.Current && !r.Offline, Offline: r.Offline, Active: r.Active, Lag: r.Lag})
	}
	return st
}
