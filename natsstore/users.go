package natsstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
)

const (
	atOnce   = 16          // records read or ended at a time
	underway = time.Minute // a sign-in takes less: from its entry to its record
)

// entryEnd is how long an index entry is of use: to the Deadline, for touches
// move Expires up to it.
func entryEnd(deadline time.Time) int64 {
	if deadline.IsZero() {
		return math.MaxInt64
	}
	return deadline.UnixMilli()
}

// enter writes a session's entry in its user's index.
func (s *Store) enter(ctx context.Context, rec *session.Record) error {
	if err := s.usable(); err != nil {
		return err
	}
	var ttl time.Duration // none
	if !rec.Deadline.IsZero() {
		ttl = s.ttl(rec.Deadline)
	}
	for n := 0; ; n++ {
		_, err := s.link.publish(ctx, s.userSubject(rec.User)+tokenOf(rec.ID), []byte("1"), anyRevision, ttl)
		if err == nil || !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		if err := again(ctx, n); err != nil {
			return err
		}
	}
}

// subjects returns the rest of all subjects that begin so, at the leader. They
// come in pages, in order; one that overlaps the page before shows that nothing
// slipped through between the two.
func (s *Store) subjects(ctx context.Context, prefix string) ([]string, error) {
	if err := s.led(ctx); err != nil {
		return nil, err
	}
	const overlap = 1000
	var all []string
	offset, back := 0, overlap
	for {
		info, err := s.link.info(ctx, prefix+">", offset)
		if err != nil {
			return nil, err
		}
		page := make([]string, 0, len(info.State.Subjects))
		for subject := range info.State.Subjects {
			page = append(page, strings.TrimPrefix(subject, prefix))
		}
		slices.Sort(page)
		if len(all) > 0 && offset > 0 && (len(page) == 0 || page[0] > all[len(all)-1]) {
			offset, back = max(0, offset-back), 2*back
			continue
		}
		all = append(all, page...)
		slices.Sort(all)
		all = slices.Compact(all)
		if info.Limit == 0 || offset+len(page) >= info.Total || len(page) == 0 {
			return all, nil
		}
		offset, back = max(offset+1, offset+len(page)-overlap), overlap
	}
}

// List implements session.Lister. It asks the leader, with Local too.
func (s *Store) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		if user == "" {
			return
		}
		entries, err := s.subjects(ctx, s.userSubject(user))
		if err != nil {
			yield(session.Info{}, failed("list", err))
			return
		}
		var over []string
		for r, err := range s.records(ctx, entries) {
			switch {
			case err != nil:
				yield(session.Info{}, failed("list", err))
				return
			case r.stored == nil || r.User != user:
				over = append(over, r.token)
			case !r.Replaced && !yield(r.Info(), nil):
				return
			}
		}
		s.trim(ctx, user, over)
	}
}

// found is what stands at a token; nothing if stored is nil.
type found struct {
	token string
	*stored
}

// records reads what stands at these tokens, several at once and in their order.
func (s *Store) records(ctx context.Context, tokens []string) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		for part := range slices.Chunk(tokens, atOnce) {
			recs := make([]found, len(part))
			errs := make([]error, len(part))
			var wg sync.WaitGroup
			for i, token := range part {
				wg.Go(func() {
					recs[i].token = token
					r, err := s.look(ctx, idOf(token))
					if err != nil && !errors.Is(err, session.ErrNotFound) {
						errs[i] = err
						return
					}
					recs[i].stored = r
				})
			}
			wg.Wait()
			for i := range recs {
				if !yield(recs[i], errs[i]) {
					return
				}
			}
		}
	}
}

// trim removes entries that stand for nothing, but for those so young that a
// sign-in may be under way. Whatever is left, the next call finds.
func (s *Store) trim(ctx context.Context, user string, tokens []string) {
	const most = 64 // in passing
	for _, token := range tokens[:min(len(tokens), most)] {
		subject := s.userSubject(user) + token
		m, err := s.link.last(ctx, subject)
		if err != nil {
			return
		}
		if time.Since(m.Time) < s.underway {
			continue
		}
		if s.link.purge(ctx, subject, m.Seq) != nil {
			return
		}
	}
}

// DeleteUser implements session.UserDeleter. It asks the leader, with Local too.
// A failure leaves some sessions, and the next call finds them.
func (s *Store) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" {
		return 0, nil
	}
	entries, err := s.subjects(ctx, s.userSubject(user))
	if err != nil {
		return 0, failed("delete user", err)
	}
	var (
		mu       sync.Mutex
		n        int
		over     []string
		failures []error
		wg       sync.WaitGroup
	)
	turn := make(chan struct{}, atOnce)
	for _, token := range entries {
		if idOf(token) == keep {
			continue
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			ended, stands, err := s.endOf(ctx, user, idOf(token))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failures = append(failures, err)
			case ended:
				n++
			case !stands:
				over = append(over, token)
			}
		})
	}
	wg.Wait()
	s.trim(ctx, user, over)
	if len(failures) > 0 { // one is enough: they are mostly the same
		return n, failed("delete user", fmt.Errorf("%d of %d failed: %w", len(failures), len(entries), failures[0]))
	}
	return n, nil
}

// endOf ends one session if it is the user's. stands says that its entry is of
// use.
func (s *Store) endOf(ctx context.Context, user, id string) (ended, stands bool, err error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	defer s.asks.part(id)
	lost := false
	for n := 0; ; n++ {
		r, err := s.look(ctx, id)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return lost, false, nil
		case err != nil:
			return false, false, err
		case r.User != user || r.Replaced:
			return false, false, nil
		}
		err = s.remove(ctx, id, int64(r.seq))
		switch {
		case err == nil:
			return true, true, nil
		case errors.Is(err, errLost) && ctx.Err() == nil:
			lost = true
		case !errors.Is(err, errWrong):
			return false, false, err
		}
		if err := again(ctx, n); err != nil {
			return false, false, err
		}
	}
}

// Scan implements session.Scanner. It reads every session at the leader, with
// Local too.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		tokens, err := s.subjects(ctx, s.prefix+"r.")
		if err != nil {
			yield(nil, failed("scan", err))
			return
		}
		for r, err := range s.records(ctx, tokens) {
			switch {
			case err != nil:
				yield(nil, failed("scan", err))
				return
			case r.stored == nil || r.Replaced:
				continue
			}
			own := *r.Record
			if !yield(&own, nil) {
				return
			}
		}
	}
}

// purge removes the messages of a subject up to this sequence.
func (l *link) purge(ctx context.Context, subject string, seq uint64) error {
	in := struct {
		Filter string `json:"filter"`
		Below  uint64 `json:"seq"`
	}{subject, seq + 1}
	var out struct {
		Success bool `json:"success"`
	}
	return l.ask(ctx, "$JS.API.STREAM.PURGE."+l.stream, in, &out)
}
