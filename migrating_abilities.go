package session

import (
	"context"
	"errors"
	"iter"
	"time"
)

// links builds the chain that As walks from a migrating store: one link for each
// ability that both stores have (one is enough where the other needs none). One
// type with every method would claim abilities that a store lacks.
func (s *migrating) links() (chain Store) {
	if both[Toucher](s) {
		chain = &migratingToucher{migratingLink{s, chain}}
	}
	if both[Lister](s) {
		chain = &migratingLister{migratingLink{s, chain}}
	}
	if both[UserDeleter](s) {
		chain = &migratingUserDeleter{migratingLink{s, chain}}
	}
	if both[Scanner](s) {
		chain = &migratingScanner{migratingLink{s, chain}}
	}
	if either[AtLeaster](s) {
		chain = &migratingAtLeaster{migratingLink{s, chain}}
	}
	if to, from := cleaner(s.to), cleaner(s.from); to != nil || from != nil {
		chain = &migratingCleaner{migratingLink{s, chain}}
	}
	for _, store := range []Store{s.to, s.from} {
		if leaser, ok := As[Leaser](store); ok {
			return &migratingLeaser{migratingLink{s, chain}, leaser}
		}
	}
	return chain
}

func both[T any](s *migrating) bool {
	_, to := As[T](s.to)
	_, from := As[T](s.from)
	return to && from
}

func either[T any](s *migrating) bool {
	_, to := As[T](s.to)
	_, from := As[T](s.from)
	return to || from
}

func ability[T any](s Store) T {
	a, _ := As[T](s)
	return a
}

// migratingLink is a Store, for As asks for one.
type migratingLink struct {
	*migrating
	next Store
}

func (l *migratingLink) Unwrap() Store { return l.next }

type (
	migratingToucher     struct{ migratingLink }
	migratingLister      struct{ migratingLink }
	migratingUserDeleter struct{ migratingLink }
	migratingScanner     struct{ migratingLink }
	migratingCleaner     struct{ migratingLink }
	migratingAtLeaster   struct{ migratingLink }

	// migratingLeaser leases from one of the stores. During a deploy that may
	// be another one on another node, and two nodes clean, which is no harm.
	migratingLeaser struct {
		migratingLink
		leaser Leaser
	}
)

// Touch implements Toucher.
func (l *migratingToucher) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	touched := errors.New("done")
	err := l.everywhere(func(store Store) error {
		switch err := ability[Toucher](store).Touch(ctx, id, seen, expires); {
		case err == nil:
			return touched
		case errors.Is(err, ErrNotFound):
			return nil
		default:
			return err
		}
	})
	switch err {
	case touched:
		return nil
	case nil:
		return ErrNotFound
	}
	return err
}

// List implements Lister.
func (l *migratingLister) List(ctx context.Context, user string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		seen := map[string]bool{}
		stop := errors.New("left early")
		_ = l.everywhere(func(store Store) error {
			for info, err := range ability[Lister](store).List(ctx, user) {
				if err == nil && seen[info.ID] {
					continue
				}
				seen[info.ID] = true
				info.Device = realDevice(info.Device)
				if !yield(info, err) || err != nil {
					return stop
				}
			}
			return nil
		})
	}
}

// DeleteUser implements UserDeleter.
func (l *migratingUserDeleter) DeleteUser(ctx context.Context, user, keep string) (ended int, err error) {
	err = l.everywhere(func(store Store) error {
		n, err := ability[UserDeleter](store).DeleteUser(ctx, user, keep)
		ended += n
		return err
	})
	return ended, err
}

// Scan implements Scanner: from first, for what moves meanwhile comes later. A
// copy whose original it has not seen may be the session by now, so it is
// yielded.
func (l *migratingScanner) Scan(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		seen := map[string]bool{}
		for rec, err := range ability[Scanner](l.from).Scan(ctx) {
			switch {
			case err != nil:
				yield(nil, err)
				return
			case isPending(rec):
				continue
			}
			seen[rec.ID] = true
			if !yield(inFrom(rec), nil) {
				return
			}
		}
		for rec, err := range ability[Scanner](l.to).Scan(ctx) {
			if err == nil {
				if seen[rec.ID] {
					continue
				}
				rec.Device = realDevice(rec.Device)
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// LoadAtLeast implements AtLeaster. A store that is none always returns the
// newest.
func (l *migratingAtLeaster) LoadAtLeast(ctx context.Context, token string, version int64) (*Record, error) {
	return l.load(ctx, token, version)
}

// Lease implements Leaser.
func (l *migratingLeaser) Lease(ctx context.Context, name string, d time.Duration) (bool, error) {
	return l.leaser.Lease(ctx, name, d)
}

// Clean implements Cleaner. A store that is no Cleaner needs none.
func (l *migratingCleaner) Clean(ctx context.Context, now time.Time, limit int) (int, error) {
	n := 0
	for _, c := range []Cleaner{cleaner(l.to), cleaner(l.from)} {
		if c == nil || limit > 0 && n >= limit {
			continue
		}
		left := limit
		if limit > 0 {
			left -= n
		}
		k, err := c.Clean(ctx, now, left)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func cleaner(s Store) Cleaner { return ability[Cleaner](s) }

var (
	_ Toucher     = (*migratingToucher)(nil)
	_ Lister      = (*migratingLister)(nil)
	_ UserDeleter = (*migratingUserDeleter)(nil)
	_ Scanner     = (*migratingScanner)(nil)
	_ Cleaner     = (*migratingCleaner)(nil)
	_ Leaser      = (*migratingLeaser)(nil)
	_ AtLeaster   = (*migratingAtLeaster)(nil)
)
