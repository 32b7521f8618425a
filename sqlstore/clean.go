package sqlstore

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/distsession/session"
)

// cleanPage is how many rows one statement of Clean looks at.
const cleanPage = 500

// Clean implements session.Cleaner. It works in batches, each committed by
// itself, that hold up no save: several cleaners, and cleaners and savers, never
// wait for each other in a circle.
//
// A row has two times: expires, which every save and touch moves, and due, at
// most as late, when Clean looks at it. What is due and lives is looked at again
// when it expires; the rest goes.
func (s *Store) Clean(ctx context.Context, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		limit = math.MaxInt
	}
	removed := 0
	for {
		page := min(limit-removed, cleanPage)
		var met, gone int
		err := s.do(ctx, "clean", func(ctx context.Context) (err error) {
			met, gone, err = s.cleanSome(ctx, now.UnixMilli(), page)
			return err
		})
		removed += gone
		if err != nil || met < page || removed >= limit {
			return removed, err
		}
	}
}

// cleanSome looks at rows that are due, and tells how many it met and how many
// of them it removed.
func (s *Store) cleanSome(ctx context.Context, now int64, limit int) (met, gone int, err error) {
	if s.atomic {
		err = s.queries.clean.row(ctx, now, limit, now, now).Scan(&met, &gone)
		return met, gone, err
	}
	alive, over, err := s.split(ctx, &s.queries.due, now, now, limit)
	if err != nil {
		return 0, 0, err
	}
	met = len(alive) + len(over)
	if gone, err = s.onIDs(ctx, "DELETE FROM {t}", over, " AND expires <= ?", now); err != nil {
		return met, 0, err
	}
	_, err = s.onIDs(ctx, "UPDATE {t} SET due = expires", alive, " AND expires > ?", now)
	return met, gone, err
}

func (s *Store) leaseSQL() string {
	if s.upsert {
		return `INSERT INTO {lease} AS old (name, holder, held_until) VALUES (?, ?, {clock} + ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE old.holder = excluded.holder OR old.held_until <= {clock}`
	}
	return "UPDATE {lease} SET holder = ?, held_until = {clock} + ? WHERE name = ? AND (holder = ? OR held_until <= {clock})"
}

// Lease implements session.Leaser, with a row of the database and by its clock.
// (An advisory lock belongs to a connection: behind a pool such as PgBouncer
// nobody knows whose that is.)
func (s *Store) Lease(ctx context.Context, name string, d time.Duration) (held bool, err error) {
	if name == "" || len(name) > maxID {
		return false, errors.New("sqlstore: lease: the name has no bytes, or more than 255")
	}
	err = s.do(ctx, "lease", func(ctx context.Context) error {
		held, err = s.lease(ctx, name, (d + time.Millisecond - 1).Milliseconds())
		return err
	})
	return held && err == nil, err
}

func (s *Store) lease(ctx context.Context, name string, ms int64) (bool, error) {
	if ms <= 0 {
		_, err := s.queries.leaseEnd.exec(ctx, name, s.holder)
		return false, err
	}
	if s.upsert {
		n, err := s.queries.lease.exec(ctx, name, s.holder, ms)
		return n > 0, err
	}
	n, err := s.queries.lease.exec(ctx, s.holder, ms, name, s.holder)
	if err != nil || n > 0 {
		return n > 0, err
	}
	// Another has it, or nobody ever had, or it was renewed twice within a
	// millisecond, and stays as it was.
	var held bool
	err = s.queries.held.row(ctx, s.holder, name).Scan(&held)
	if !errors.Is(err, session.ErrNotFound) {
		return held, err
	}
	n, err = s.queries.leaseNew.exec(ctx, name, s.holder, ms)
	if s.judge(err) == duplicate {
		return false, nil
	}
	return n > 0, err
}
