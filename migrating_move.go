package session

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// How a session moves. At every moment one of the two stores has the truth:
//
//  1. A copy is saved in to, marked as pending with the version that it is of
//     and the name of the move, which is random. The truth is still in from:
//     others may change it, or end it.
//  2. In from a marker with that name takes the place of exactly that version,
//     by compare-and-set. With that the truth is in to; if it fails, the copy is
//     worth nothing.
//  3. The copy loses its mark.
//
// Whoever finds it half-way goes on from there, under the same name, so a node
// that dies leaves nothing behind that the next load does not finish. Between 1
// and 3 the session can be seen in at least one of the stores by List and
// DeleteUser.
//
// The name is for a node that was held up: its copy may come when the session
// has moved and ended already, and the marker of the move is still there. That
// marker stands for the copy that was settled then, and for no other.
//
// One thing is left, for a copy that is made again gets the version that the
// first one had: that a load is held up between 2 and 3 while the session ends,
// copy and all, that another load, held up before 1 since before that, makes its
// copy now, and that the first load settles this one. So two loads would have to
// be held up at once, each within its Timeout, with a whole sign-out in between.
//
// Since a session does not move again within the hour, an operation that visits
// to, from and to again meets it, wherever it is and whichever way it moves.
// And since its marker stays where it was, the versions in each store only
// grow: a request that has loaded it there before conflicts.

const (
	// fromVersion is added to the Version of a record that lives in from, so
	// that Save knows where it belongs.
	fromVersion int64 = 1 << 62

	// moveAgain is how long a session stays where it was moved to.
	moveAgain = time.Hour

	// moveAhead is how long a session must have to live to be moved. One that
	// is about to expire might do so half-way, while a touch that comes at the
	// same moment keeps it alive.
	moveAhead = 5 * time.Second

	// droppedFor is how long the marker stays that takes the place of a copy
	// which is worth nothing.
	droppedFor = time.Minute

	// movedDevice begins the Device of the marker that says: it is in the other
	// store, in this version or a newer one, by the move of this name. (That of
	// a Manager's marker is an ID.)
	movedDevice = "session.moved/"

	// pendingDevice begins the Device of a copy; the version that it is of, the
	// name of the move and the real Device follow.
	pendingDevice = "session.moving/"

	// moveTries bounds how often a load looks again because the session
	// changed meanwhile. After some it is used where it is.
	moveTries, stayAfter = 16, 6
)

// errMoving: the session is not where it was a moment ago; look again.
var errMoving = errors.New("session: migrating: look again")

// moveLoad is one Load.
type moveLoad struct {
	*migrating
	token              string
	leastTo, leastFrom int64    // what a store that answers from copies must have seen
	dead               [2]int64 // the versions that no session stood behind, when last seen
	inVain             *Record  // the copy that this load made of a version that was changed then
	stay               bool     // use it where it is: others change it faster than it can be moved
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
	l.leastFrom = max(l.leastFrom, movedTo(here))
	there, alsoMissing, err := find(loadAtLeast(ctx, l.from, l.token, l.leastFrom))
	if err != nil {
		return nil, err
	}
	l.leastTo = max(l.leastTo, movedTo(there))
	switch {
	case there == nil:
		// It has ended in from, if it was there. A copy is left to the load that
		// made it: this node may lack a key, or its clock may be ahead.
		l.drop(ctx, l.inVain)
		return nil, cmp.Or(reason(missing), reason(alsoMissing), ErrNotFound)
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
			l.drop(ctx, here)
			return nil, cmp.Or(reason(missing), ErrNotFound)
		}
		l.dead = now
		return nil, errMoving
	case there.Replaced: // soon over
		l.drop(ctx, here)
		return inFrom(there), nil
	case l.stay || here != nil && isMoved(here) && time.Since(here.Seen) < moveAgain:
		return inFrom(there), nil
	}
	return l.settled(l.move(ctx, here, there))
}

// drop takes a copy away whose original has ended or changed: it opens nothing,
// but would be in lists until it expires. If that fails, it is. A marker takes
// its place, by compare-and-set: should it be the session by now, it stays.
func (s *migrating) drop(ctx context.Context, copied *Record) {
	if copied == nil || !isPending(copied) {
		return
	}
	now := time.Now()
	_, _ = s.to.Save(ctx, &Record{
		ID: copied.ID, Device: movedDevice, Created: copied.Created, Seen: now,
		Expires: now.Add(droppedFor), Deadline: copied.Deadline, Replaced: true, Version: copied.Version, Tag: copied.Tag,
	})
}

// reason is an ErrNotFound that says more than that.
func reason(err error) error {
	if err == ErrNotFound {
		return nil
	}
	return err
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
	switch {
	case errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound):
		if rec != nil {
			l.inVain = rec
		}
		return nil, errMoving
	case err != nil:
		return nil, err
	}
	return rec, nil
}

// move moves there, a record of from; here is what to has under its ID: nothing,
// a copy that was left, or the marker of a move in the opposite direction. With
// ErrConflict it may return the copy that it made in vain.
func (s *migrating) move(ctx context.Context, here, there *Record) (*Record, error) {
	if time.Until(there.Expires) < moveAhead {
		return inFrom(there), nil
	}
	// A node that was held up may still put the marker of an earlier try in the
	// place of this version, so this try goes by the same name.
	mark := pendingMark{of: there.Version, name: newWrite(), device: there.Device}
	if earlier, ok := markOf(here); ok && earlier.of == there.Version {
		mark.name = earlier.name
	}
	pending := *there
	pending.Device = mark.text()
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
		ID: there.ID, Device: movedDevice + strconv.FormatInt(pending.Version, 10) + "/" + mark.name,
		Created: there.Created, Seen: time.Now(), Expires: there.Deadline, Deadline: there.Deadline,
		Replaced: true, Version: there.Version, Tag: there.Tag,
	}
	if there.Deadline.IsZero() {
		marker.Expires = cmp.Or(there.Created, there.Expires).Add(maxLifetime)
	}
	if _, err := s.from.Save(ctx, marker); err != nil {
		if errors.Is(err, ErrNotFound) {
			s.drop(ctx, &pending) // it has ended meanwhile
		}
		return &pending, err
	}
	return settle(ctx, s.to, &pending)
}

// settle takes the mark from a copy that has become the session.
func settle(ctx context.Context, store Store, pending *Record) (*Record, error) {
	rec := *pending
	mark, _ := markOf(pending)
	rec.Device = mark.device
	if _, err := store.Save(ctx, &rec); err != nil {
		return nil, err
	}
	rec.Version++
	rec.Tag = nil
	return &rec, nil
}

// isMoved tells a marker that a move has left, or that stands for a copy which
// was dropped.
func isMoved(rec *Record) bool { return rec.Replaced && strings.HasPrefix(rec.Device, movedDevice) }

// movedTo is the version in which the other store has what this marker stands
// for; 0 if it is none.
func movedTo(rec *Record) int64 {
	if rec == nil || !isMoved(rec) {
		return 0
	}
	number, _, _ := strings.Cut(rec.Device[len(movedDevice):], "/")
	version, _ := strconv.ParseInt(number, 10, 64)
	return version
}

// pendingMark is what the Device of a pending copy says.
type pendingMark struct {
	of     int64  // the version of the original
	name   string // of the move
	device string // of the session
}

func (m pendingMark) text() string {
	return pendingDevice + strconv.FormatInt(m.of, 10) + "/" + m.name + "/" + m.device
}

func parseMark(text string) (m pendingMark, ok bool) {
	text, ok = strings.CutPrefix(text, pendingDevice)
	if !ok {
		return m, false
	}
	number, text, _ := strings.Cut(text, "/")
	m.name, m.device, ok = strings.Cut(text, "/")
	of, err := strconv.ParseInt(number, 10, 64)
	m.of = of
	return m, ok && err == nil
}

func markOf(rec *Record) (m pendingMark, ok bool) {
	if rec == nil || rec.Replaced {
		return m, false
	}
	return parseMark(rec.Device)
}

func isPending(rec *Record) bool { _, ok := markOf(rec); return ok }

// realDevice is what a list shows of a session that may be a pending copy.
func realDevice(device string) string {
	if m, ok := parseMark(device); ok {
		return m.device
	}
	return device
}

// follows tells whether the copy is what the marker stands for: it is of the
// move that the marker names.
func follows(pending, marker *Record) bool {
	mark, ok := markOf(pending)
	return ok && mark.name != "" && marker != nil && isMoved(marker) && strings.HasSuffix(marker.Device, "/"+mark.name)
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
