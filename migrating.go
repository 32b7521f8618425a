package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"reflect"
	"time"
)

func init() { Register("migrating", openMigrating) }

// openMigrating opens migrating:?to=…&from=…
func openMigrating(ctx context.Context, u *url.URL) (Store, error) {
	if err := onlyParams(u, "to", "from"); err != nil {
		return nil, err
	}
	p := NewParams(u)
	toURL, fromURL := p.String("to", ""), p.String("from", "")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if toURL == "" || fromURL == "" {
		return nil, configError("migrating: to or from is missing; write migrating:?to=…&from=… with the escaped URLs of two server-side stores")
	}
	to, err := openInner(ctx, "migrating", "to", toURL)
	if err != nil {
		return nil, err
	}
	from, err := openInner(ctx, "migrating", "from", fromURL)
	if err != nil {
		_ = Close(to)
		return nil, err
	}
	s, err := Migrating(to, from)
	if err != nil {
		_ = errors.Join(Close(to), Close(from))
		return nil, err
	}
	return s, nil
}

// Migrating is a store that moves its sessions from one store to another while
// it is in use: new ones are created in to, and one that is loaded from from is
// moved. Nobody is signed out, no change is lost, and what has ended stays
// ended, also while other nodes do the same in the opposite direction. So
// backends are swapped in three roll-outs, each as slow as you like:
//
//	every node has old
//	1. every node gets Migrating(old, new)
//	2. every node gets Migrating(new, old)
//	3. when old is empty, every node gets new
//
// Without the first, the nodes that are still on old would not find what the
// others have moved. From the second on, MoveAll moves those whose users do not
// come. What is left in old then are markers, which say that a session has
// moved, until its Deadline; List and Scan pass over them.
//
// A load costs one round trip for a session that is in to, two for one that is
// not, and five for the one that moves it. Delete and DeleteUser cost three.
// A session moves at most once an hour; where it has just come from to, it stays
// in from until then and is used there. One that does not fit into to stays in
// from as well. While either store fails, what needs it fails.
//
// It has the abilities that both stores have. A session that moves while
// DeleteUser ends it may be counted twice. A client-side store is ErrConfig, and
// so is a Cached one, which goes around Migrating, and Migrating as the Revoked of
// a client-side store, which has no sessions that could move.
func Migrating(to, from Store) (Store, error) {
	if err := serverSide("migrating", "to", to); err != nil {
		return nil, err
	}
	if err := serverSide("migrating", "from", from); err != nil {
		return nil, err
	}
	switch {
	case isCached(to) || isCached(from):
		return nil, configError("migrating: to or from is Cached, and a move needs the truth; put Cached around Migrating")
	case isMigrating(to) || isMigrating(from):
		return nil, configError("migrating: to or from is Migrating itself; finish one move before the next begins")
	case sameStore(to, from):
		return nil, configError("migrating: to and from are one store; give it two, or one with another prefix, table or folder")
	}
	s := &migrating{to: to, from: from}
	s.abilities = s.links()
	return s, nil
}

// migrating is the Store; migrating_move.go tells how a session moves.
type migrating struct {
	to, from  Store
	abilities Store
}

func isMigrating(s Store) bool {
	_, ok := As[*migrating](s)
	return ok
}

// sameStore tells whether a and b are one store, whatever is around it.
func sameStore(a, b Store) bool {
	a, b = innermost(a), innermost(b)
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}

func innermost(s Store) Store {
	for {
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			return s
		}
		inner := w.Unwrap()
		if inner == nil {
			return s
		}
		s = inner
	}
}

func (s *migrating) Unwrap() Store { return s.abilities }

// Close closes both stores.
func (s *migrating) Close() error { return errors.Join(Close(s.to), Close(s.from)) }

// Load implements Store.
func (s *migrating) Load(ctx context.Context, token string) (*Record, error) {
	return s.load(ctx, token, 0)
}

// load is Load, and LoadAtLeast where one of the stores has it.
func (s *migrating) load(ctx context.Context, token string, version int64) (*Record, error) {
	if !WellFormed(token) {
		return nil, ErrNotFound
	}
	l := &moveLoad{migrating: s, token: token}
	if version >= fromVersion {
		l.leastFrom = version - fromVersion
	} else {
		l.leastTo = version
	}
	for try := range moveTries {
		l.stay = try >= stayAfter
		rec, err := l.look(ctx)
		if err != errMoving {
			return rec, err
		}
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("session: migrating: load: %w", ctx.Err())
			case <-time.After(rand.N(time.Millisecond << min(try, 5))):
			}
		}
	}
	return nil, fmt.Errorf("session: migrating: load: record %s was in neither store %d times in a row", ID(token), moveTries)
}

// Save implements Store.
func (s *migrating) Save(ctx context.Context, rec *Record) (string, error) {
	if rec.Version < fromVersion {
		return s.to.Save(ctx, rec)
	}
	old := *rec
	old.Version -= fromVersion
	return s.from.Save(ctx, &old)
}

// Delete implements Store. A move that is under way fails where it takes the
// place of what is gone, or has left the session in a store that comes later.
func (s *migrating) Delete(ctx context.Context, id string) error {
	return s.everywhere(func(store Store) error { return store.Delete(ctx, id) })
}

// everywhere calls f so that it meets a session wherever it moves.
func (s *migrating) everywhere(f func(Store) error) error {
	for _, store := range []Store{s.to, s.from, s.to} {
		if err := f(store); err != nil {
			return err
		}
	}
	return nil
}

// MoveAll moves the sessions that store, which Migrating returned, still has in
// from, and tells how many. One that another node moves or changes at this
// moment is left for a call that comes a minute later. One that came from to
// before, as happens during the second roll-out, is left for its user's next
// load, for its Deadline at the latest: old is empty when its Scan yields
// nothing. A touch that comes while its session is moved may be lost.
//
// errors.ErrUnsupported if store is no such store, or from cannot Scan.
func MoveAll(ctx context.Context, store Store) (int, error) {
	s, ok := As[*migrating](store)
	if !ok {
		return 0, errUnsupported("move sessions: it is not Migrating")
	}
	scanner, ok := As[Scanner](s.from)
	if !ok {
		return 0, errUnsupported("move all sessions: from cannot scan")
	}
	moved := 0
	for rec, err := range scanner.Scan(ctx) {
		if err != nil {
			return moved, err
		}
		if isPending(rec) {
			continue
		}
		rec, err := s.move(ctx, nil, rec)
		switch {
		case err == nil && rec.Version < fromVersion:
			moved++
		case errors.Is(err, ErrConflict):
			s.drop(ctx, rec)
		case err != nil && !errors.Is(err, ErrNotFound):
			return moved, err
		}
	}
	return moved, nil
}

var _ Store = (*migrating)(nil)
