package gridstore

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/distsession/session"
)

// Scan implements session.Scanner. A record may come twice if the grid moves it
// to another member meanwhile. One whose ID was not made by session.ID is passed
// over: its key does not tell it.
func (s *Store) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		for key, err := range s.grid.Keys(ctx) {
			if err != nil {
				yield(nil, s.failed("scan", err))
				return
			}
			id, ok := strings.CutPrefix(key, s.prefix)
			if !ok || !session.WellFormed(id) {
				continue
			}
			r, err := s.found(ctx, id)
			switch {
			case errors.Is(err, session.ErrNotFound):
				continue
			case err != nil:
				yield(nil, s.failed("scan", err))
				return
			case r.Replaced:
				continue
			}
			if !yield(r.Record, nil) {
				return
			}
		}
	}
}
