package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
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
// so is Migrating as the Revoked of one, which has no sessions that could move.
func Migrating(to, from Store) (Store, error) {
	if err := serverSide("migrating", "to", to); err != nil {
		return nil, err
	}
	if err := serverSide("migrating", "from", from); err != nil {
		return nil, err
	}
	if to == from {
		return nil, configError("migrating: to and from are one store; give it two")
	}
	s := &migrating{to: to, from: from}
	s.abilities = s.links()
	return s, nil
}

// How a session moves. At every moment one of the two stores has the truth:
//
//  1. A copy is saved in to, marked as pending with the version that it is of.
//     The truth is still in from: others may change it, or end it.
//  2. In from a marker takes the place of exactly that version, by
//     compare-and-set. With that the truth is in to; if it fails, the copy is
//     worth nothing.
//  3. The copy loses its mark.
//
// Whoever finds it half-way goes on from there, so a node that dies leaves
// nothing behind that the next load does not finish. Between 1 and 3 the session
// can be seen in at least one of the stores by List and DeleteUser.
//
// Since a session does not move again within the hour, an operation that visits
// to, from and to again meets it, wherever it is and whichever way it moves.
// And since its marker stays where it was, the versions in each store only
// grow: a request that has loaded it there before conflicts.
type migrating struct {
	to, from  Store
	abilities Store
}

const (
	// fromVersion is added to the Version of a record that lives in from, so
	// that Save knows where it belongs.
	fromVersion int64 = 1 << 62

	// moveAgain is how long a session stays where it was moved to.
	moveAgain = time.Hour

	// movedDevice is the Device of the marker that says: it is in the other
	// store. (That of a Manager's marker is an ID.)
	movedDevice = "session.moved"

	// pendingDevice begins the Device of a copy; a version and the real Device
	// follow.
	pendingDevice = "session.moving/"

	// moveTries bounds how often a load looks again because the session
	// changed meanwhile.
	moveTries = 16
)

func isMigrating(s Store) bool {
	_, ok := As[*migrating](s)
	return ok
}

func (s *migrating) Unwrap() Store { return s.abilities }

// Close closes both stores.
func (s *migrating) Close() error { return errors.Join(Close(s.to), Close(s.from)) }

// Load implements Store.
func (s *migrating) Load(ctx context.Context, token string) (*Record, error) {
	return s.LoadAtLeast(ctx, token, 0)
}

// LoadAtLeast implements AtLeaster.
func (s *migrating) LoadAtLeast(ctx context.Context, token string, version int64) (*Record, error) {
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
	return nil, fmt.Errorf("session: migrating: load: record %s changed %d times while it was to be moved", ID(token), moveTries)
}

// errMoving: the session is not where it was a moment ago; look again.
var errMoving = errors.New("session: migrating: look again")

// moveLoad is one Load.
type moveLoad struct {
	*migrating
	token              string
	leastTo, leastFrom int64    // what a store that answers from copies must have seen
	dead               [2]int64 // the versions that no session stood behind, when last seen
}

// look looks once in both stores.
func (l *moveLoad) look(ctx context.Context) (*Record, error) {
	here, missing, err := find(loadAtLeast(ctx, l.to, l.token, l.leastTo))
	if err != nil {
		return nil, err
	}
	if here != nil && !isMoved(here) && !isPending(here) {
		return here, nil
	}
	there, alsoMissing, err := find(loadAtLeast(ctx, l.from, l.token, l.leastFrom))
	if err != nil {
		return nil, err
	}
	switch {
	case here == nil && there == nil:
		if missing == ErrNotFound {
			missing = alsoMissing // it may have a reason that is worth a log line
		}
		return nil, missing
	case there == nil:
		l.drop(ctx, here)
		return nil, ErrNotFound // it has ended in from
	case follows(here, there):
		return l.settled(settle(ctx, l.to, here))
	case follows(there, here):
		rec, err := l.settled(settle(ctx, l.from, there))
		return inFrom(rec), err
	case isMoved(there) || isPending(there):
		// The store that it says has the session does not, or did not when it
		// was asked. If that has not changed by now, the session has ended.
		now := [2]int64{versionOf(here), there.Version}
		if now == l.dead {
			return nil, ErrNotFound
		}
		l.dead = now
		l.leastTo = max(l.leastTo, 1)
		return nil, errMoving
	case there.Replaced: // soon over
		l.drop(ctx, here)
		return inFrom(there), nil
	case here != nil && isMoved(here) && time.Since(here.Seen) < moveAgain:
		return inFrom(there), nil
	}
	return l.settled(l.move(ctx, here, there))
}

// drop removes a copy whose original has ended: it opens nothing, but would be
// in lists until it expires. If that fails, it is.
func (s *migrating) drop(ctx context.Context, copied *Record) {
	if copied != nil && isPending(copied) {
		_ = s.to.Delete(ctx, copied.ID)
	}
}

// find takes "not found" apart from a failure.
func find(rec *Record, err error) (found *Record, missing, failed error) {
	switch {
	case err == nil:
		return rec, nil, nil
	case errors.Is(err, ErrNotFound):
		return nil, err, nil
	}
	return nil, nil, err
}

// settled makes of what a compare-and-set met the next step of the load.
func (l *moveLoad) settled(rec *Record, err error) (*Record, error) {
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		return nil, errMoving
	}
	return rec, err
}

// move moves there, a record of from; here is what to has under its ID: nothing,
// a copy that was left, or the marker of a move in the opposite direction.
func (s *migrating) move(ctx context.Context, here, there *Record) (*Record, error) {
	pending := *there
	pending.Device = pendingDevice + strconv.FormatInt(there.Version, 10) + "/" + there.Device
	pending.Version, pending.Tag = versionOf(here), nil
	if here != nil {
		pending.Tag = here.Tag
	}
	_, err := s.to.Save(ctx, &pending)
	switch {
	case errors.Is(err, ErrTooLarge):
		return inFrom(there), nil
	case err != nil:
		return nil, err
	}
	pending.Version++
	pending.Tag = nil
	marker := &Record{
		ID: there.ID, Device: movedDevice, Created: there.Created, Seen: time.Now(),
		Expires: there.Deadline, Deadline: there.Deadline, Replaced: true, Version: there.Version, Tag: there.Tag,
	}
	if there.Deadline.IsZero() {
		marker.Expires = cmp.Or(there.Created, there.Expires).Add(maxLifetime)
	}
	if _, err := s.from.Save(ctx, marker); err != nil {
		if errors.Is(err, ErrNotFound) {
			s.drop(ctx, &pending) // it has ended meanwhile
		}
		return nil, err
	}
	return settle(ctx, s.to, &pending)
}

// settle takes the mark from a copy that has become the session.
func settle(ctx context.Context, store Store, pending *Record) (*Record, error) {
	rec := *pending
	_, rec.Device, _ = pendingOf(pending)
	if _, err := store.Save(ctx, &rec); err != nil {
		return nil, err
	}
	rec.Version++
	rec.Tag = nil
	return &rec, nil
}

func isMoved(rec *Record) bool { return rec.Replaced && rec.Device == movedDevice }

func isPending(rec *Record) bool { _, _, ok := pendingOf(rec); return ok }

// pendingOf returns the version that a pending copy is of, and its real Device.
func pendingOf(rec *Record) (version int64, device string, ok bool) {
	text, ok := strings.CutPrefix(rec.Device, pendingDevice)
	if !ok {
		return 0, rec.Device, false
	}
	number, device, ok := strings.Cut(text, "/")
	version, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil {
		return 0, rec.Device, false
	}
	return version, device, true
}

// follows tells whether the copy is what the marker stands for: it is of the
// version whose place the marker took.
func follows(pending, marker *Record) bool {
	if pending == nil || marker == nil || !isMoved(marker) {
		return false
	}
	version, _, ok := pendingOf(pending)
	return ok && marker.Version == version+1
}

func versionOf(rec *Record) int64 {
	if rec == nil {
		return 0
	}
	return rec.Version
}

// inFrom gives a record of from the Version by which Save knows it.
func inFrom(rec *Record) *Record {
	if rec == nil {
		return nil
	}
	marked := *rec
	marked.Version += fromVersion
	return &marked
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
// moment, or that has moved the other way within the hour, is left for the next
// call. errors.ErrUnsupported if store is no such store, or from cannot Scan.
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
		case err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound):
			return moved, err
		}
	}
	return moved, nil
}

var (
	_ Store     = (*migrating)(nil)
	_ AtLeaster = (*migrating)(nil)
)
