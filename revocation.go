package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"
)

// What a client-side store cannot take back lives on in the client's hands, so
// it remembers in another store, Revoked, what must not be accepted any more.
// There is an entry
//
//   - for each session that was ended or replaced, until the last token that
//     was sealed for it has expired;
//   - for each user whose sessions were ended by DeleteUser: the user's
//     generation. A token carries the generation that was current when its
//     session was created, and another one ends it. A generation is a random
//     number that never comes again, so no clock decides what came first, and
//     a token of a generation before the last is dead too.
//
// An entry is a record under a key that is a hash of what it is about. It is
// marked Replaced: lists, scans and counts of the store pass over it, and who
// presents its key as a session gets nothing.
type revocations struct {
	store Store            // nil: irrevocable
	owned bool             // store was opened from a URL, so Close ends it
	kind  string           // "cookie" or "jwt", for errors
	life  time.Duration    // the longest that any token lives
	now   func() time.Time //
}

const (
	// clockSkew is how far the clocks of two nodes may be apart. A time in a
	// token that is further in the future was not written by a sane clock.
	clockSkew = time.Minute

	// revokedSlack keeps an entry beyond the last token's end: for a skewed
	// clock, and for a Save that looked before the session was ended and
	// sealed after.
	revokedSlack = 2 * clockSkew

	revokedTries = 20
)

// revocation is the Data of an entry in Revoked.
type revocation struct {
	Ended    bool            `json:"ended,omitempty"`    // of a session
	Replaced *replacedMarker `json:"replaced,omitempty"` // of a session

	Generation string   `json:"generation,omitempty"` // of a user
	Keep       string   `json:"keep,omitempty"`       // the ID of the session that DeleteUser spared
	Kept       []string `json:"kept,omitempty"`       // the generations that its tokens may have; none: any
}

// maxKept bounds Kept; each DeleteUser that spares the same session again adds
// one, and the session's next token needs the last one only.
const maxKept = 100

// ends tells whether the entry of a user ends the session with this ID, whose
// token was sealed in this generation.
func (e *revocation) ends(id, generation string) bool {
	if e.Generation == generation {
		return false
	}
	return e.Keep != id || e.Kept != nil && !slices.Contains(e.Kept, generation)
}

// replacedMarker is a Replaced marker; the times are in milliseconds.
type replacedMarker struct {
	Device   string `json:"device,omitempty"`
	Version  int64  `json:"version"`
	Persist  bool   `json:"persist,omitempty"`
	Created  int64  `json:"created,omitempty"`
	Seen     int64  `json:"seen,omitempty"`
	Expires  int64  `json:"expires"`
	Deadline int64  `json:"deadline,omitempty"`
}

func newReplacedMarker(rec *Record) *replacedMarker {
	return &replacedMarker{
		Device: rec.Device, Version: rec.Version + 1, Persist: rec.Persist,
		Created: milli(rec.Created), Seen: milli(rec.Seen), Expires: milli(rec.Expires), Deadline: milli(rec.Deadline),
	}
}

func (m *replacedMarker) record(id string) *Record {
	return &Record{
		ID: id, Replaced: true,
		Device: m.Device, Version: m.Version, Persist: m.Persist,
		Created: fromMilli(m.Created), Seen: fromMilli(m.Seen), Expires: fromMilli(m.Expires), Deadline: fromMilli(m.Deadline),
	}
}

// tokenTag is the Tag of a client-side store: what the loaded token says and
// the record does not.
type tokenTag struct {
	user, generation string
	expires          time.Time
}

// newRevocations checks the answer to "what does signing out do?".
func newRevocations(kind string, store Store, irrevocable bool, life time.Duration, now func() time.Time) (*revocations, error) {
	if err := misconfiguration(store); err != nil {
		return nil, err
	}
	switch {
	case store == nil && !irrevocable:
		return nil, configError(`%s: signing out cannot end a token that the client keeps: set Revoked to a server-side store (in a URL: revoked=…) that remembers what ended, or set Irrevocable (irrevocable=true) if a copied token may live until it expires`, kind)
	case store != nil && irrevocable:
		return nil, configError("%s: both Revoked and Irrevocable are set; remove one", kind)
	case store != nil && isClientSide(store):
		return nil, configError("%s: Revoked is itself a store that keeps its sessions with the client; use a server-side one", kind)
	case isMigrating(store):
		return nil, configError("%s: Revoked is Migrating, and has no sessions that could move; use one server-side store, and keep it while tokens live", kind)
	}
	return &revocations{store: store, kind: kind, life: life, now: nowOr(now)}, nil
}

// longestLiver is a client-side store, and tells the longest life that it
// accepts of a token.
type longestLiver interface{ longestLife() time.Duration }

func isClientSide(s Store) bool {
	_, ok := As[longestLiver](s)
	return ok
}

// close ends the store that was opened from a URL.
func (r *revocations) close() error {
	if !r.owned {
		return nil
	}
	return Close(r.store)
}

// loaded is the end of a Load: rec comes from an authentic token that was
// sealed in this generation of its user. It returns the marker instead if the
// session was replaced a moment ago.
func (r *revocations) loaded(ctx context.Context, rec *Record, generation string) (*Record, error) {
	now := r.now()
	latest := now.Add(clockSkew)
	if rec.Expired(now) || rec.Created.After(latest) || rec.Seen.After(latest) {
		return nil, ErrNotFound
	}
	session, user, err := r.look(ctx, rec.ID, rec.User)
	switch {
	case err != nil:
		return nil, err
	case session != nil && session.Replaced != nil:
		if marker := session.Replaced.record(rec.ID); !marker.Expired(now) {
			return marker, nil
		}
		return nil, ErrNotFound
	case session != nil:
		return nil, ErrNotFound
	case user != nil && user.ends(rec.ID, generation):
		return nil, ErrNotFound
	}
	rec.Tag = &tokenTag{user: rec.User, generation: generation, expires: rec.Expires}
	return rec, nil
}

// admit tells whether rec may be sealed into a new token, and in which
// generation of its user.
func (r *revocations) admit(ctx context.Context, rec *Record) (generation string, err error) {
	tag, known := rec.Tag.(*tokenTag)
	if rec.Version > 0 && r.gone(rec, tag) {
		return "", ErrNotFound
	}
	known = known && tag.user == rec.User
	if known {
		generation = tag.generation
	}
	id := rec.ID
	if rec.Version == 0 {
		id = "" // just drawn; nobody can have ended it
	}
	session, user, err := r.look(ctx, id, rec.User)
	switch {
	case err != nil:
		return "", err
	case session != nil:
		return "", ErrNotFound
	case user == nil:
		return generation, nil
	case rec.Version == 0 || known && !user.ends(rec.ID, generation) || !known && user.Keep == rec.ID:
		return user.Generation, nil
	case known:
		return "", ErrNotFound
	}
	// DeleteUser was called, before this session signed in or after; only the
	// token tells, so the caller has to load it again.
	return "", ErrConflict
}

// gone tells whether a session had expired when it was saved again.
func (r *revocations) gone(rec *Record, tag *tokenTag) bool {
	now := r.now()
	return tag != nil && !now.Before(tag.expires) || !rec.Deadline.IsZero() && !now.Before(rec.Deadline)
}

// saveMarker stores a Replaced marker: the old token stays authentic until the
// session's Deadline, so the entry stays too, while the marker is shown until
// its own Expires only.
//
// The marker names no user, so only the Tag of the session's last Load tells
// that DeleteUser ended it meanwhile; without one that goes unnoticed here.
func (r *revocations) saveMarker(ctx context.Context, rec *Record) error {
	if r.store == nil {
		return nil // as said: Renew and SetUser do not kill copies
	}
	tag, _ := rec.Tag.(*tokenTag)
	if r.gone(rec, tag) {
		return ErrNotFound
	}
	if tag != nil && tag.user != "" {
		user, err := r.load(ctx, "user", tag.user)
		switch {
		case err != nil:
			return err
		case user != nil && user.ends(rec.ID, tag.generation):
			return ErrNotFound
		}
	}
	return r.update(ctx, "session", rec.ID, r.until(rec.Deadline), func(old *revocation) (*revocation, error) {
		switch {
		case old == nil:
			return &revocation{Replaced: newReplacedMarker(rec)}, nil
		case old.Replaced != nil && !old.Replaced.record(rec.ID).Expired(r.now()):
			return nil, ErrConflict
		}
		return nil, ErrNotFound
	})
}

// deadlineKey is where a context says when the session that is deleted with it
// would have ended.
type deadlineKey struct{}

// withDeadline tells a client-side store, through whatever wraps it, how long it
// has to remember that the session ended: Delete gets no more than its ID.
func withDeadline(ctx context.Context, deadline time.Time) context.Context {
	return context.WithValue(ctx, deadlineKey{}, deadline)
}

// delete ends a session, and remembers it while a token of it may live: until
// the Deadline, if the context tells that, or for the longest life of a token.
func (r *revocations) delete(ctx context.Context, id string) error {
	deadline, _ := ctx.Value(deadlineKey{}).(time.Time)
	until := r.until(deadline)
	if r.store == nil || id == "" || !r.now().Before(until) {
		return nil
	}
	return r.update(ctx, "session", id, until, func(*revocation) (*revocation, error) {
		return &revocation{Ended: true}, nil
	})
}

// deleteUser starts a new generation of the user. The session that it keeps
// must not have ended before: its tokens count if they are of the generation
// that was current until now, or were kept by the call before.
func (r *revocations) deleteUser(ctx context.Context, user, keep string) error {
	switch {
	case r.store == nil:
		return errUnsupported("end a user's sessions, for it is irrevocable")
	case user == "":
		return nil
	}
	generation := newGeneration()
	return r.update(ctx, "user", user, r.until(time.Time{}), func(old *revocation) (*revocation, error) {
		next := &revocation{Generation: generation, Keep: keep}
		switch {
		case keep == "" || old == nil: // nobody was signed out whose token still lives
		case old.Keep != keep:
			next.Kept = []string{old.Generation}
		case old.Kept != nil:
			next.Kept = append(old.Kept[max(0, len(old.Kept)-maxKept+1):], old.Generation)
		}
		return next, nil
	})
}

func newGeneration() string {
	var b [8]byte
	rand.Read(b[:])
	return b64.EncodeToString(b[:])
}

// until is how long an entry is kept.
func (r *revocations) until(deadline time.Time) time.Time {
	longest := r.now().Add(r.life)
	if deadline.IsZero() || deadline.After(longest) {
		deadline = longest
	}
	return deadline.Add(revokedSlack)
}

// look loads the entries of a session and of its user at once; "" stands for
// one that need not be looked up.
func (r *revocations) look(ctx context.Context, id, user string) (ofSession, ofUser *revocation, err error) {
	if r.store == nil {
		return nil, nil, nil
	}
	if id == "" || user == "" {
		if id != "" {
			ofSession, err = r.load(ctx, "session", id)
		} else if user != "" {
			ofUser, err = r.load(ctx, "user", user)
		}
		return ofSession, ofUser, err
	}
	var userErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		ofUser, userErr = r.load(ctx, "user", user)
	}()
	ofSession, err = r.load(ctx, "session", id)
	<-done
	if err == nil {
		err = userErr
	}
	return ofSession, ofUser, err
}

// revokedToken is the token under whose ID an entry stands. A client cannot
// make one that loads anything else: it is a hash, and the entry is Replaced.
func revokedToken(about, name string) string {
	sum := sha256.Sum256([]byte("distsession/session revoked v1 " + about + "\x00" + name))
	return b64.EncodeToString(sum[:])
}

func (r *revocations) load(ctx context.Context, about, name string) (*revocation, error) {
	_, e, err := r.loadRecord(ctx, about, name)
	return e, err
}

// loadRecord returns nil if there is no entry. Any doubt is an error and never
// "not revoked".
func (r *revocations) loadRecord(ctx context.Context, about, name string) (*Record, *revocation, error) {
	rec, err := r.store.Load(ctx, revokedToken(about, name))
	switch {
	case err == ErrNotFound: // not errors.Is: with a reason (Store.Load) it is an entry that cannot be read
		return nil, nil, nil
	case errors.Is(err, ErrNotFound):
		return nil, nil, fmt.Errorf("session: %s: revoked: there is an entry and it cannot be read: %v", r.kind, err)
	case err != nil:
		return nil, nil, fmt.Errorf("session: %s: revoked: %w", r.kind, err)
	}
	var e revocation
	err = json.Unmarshal(rec.Data, &e)
	if whole := about == "user" && e.Generation != "" || about == "session" && e.Ended != (e.Replaced != nil); err != nil || !whole {
		return nil, nil, fmt.Errorf("session: %s: revoked: the record %s is not an entry", r.kind, rec.ID)
	}
	return rec, &e, nil
}

// update replaces an entry by what change makes of it (nil if there is none),
// and keeps it until a time or for as long as it was kept already.
func (r *revocations) update(ctx context.Context, about, name string, until time.Time, change func(*revocation) (*revocation, error)) error {
	for try := range revokedTries {
		rec, old, err := r.loadRecord(ctx, about, name)
		if err != nil {
			return err
		}
		e, err := change(old)
		if err != nil {
			return err
		}
		now := r.now()
		next := Record{ID: ID(revokedToken(about, name)), Created: now}
		if rec != nil {
			next = *rec
		}
		if next.Expires.Before(until) {
			next.Expires = until
		} else if e.Ended && old.Ended {
			return nil
		}
		next.Replaced, next.Seen = true, now
		if next.Data, err = json.Marshal(e); err != nil {
			return fmt.Errorf("session: %s: revoked: %w", r.kind, err)
		}
		_, err = r.store.Save(ctx, &next)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound):
			return fmt.Errorf("session: %s: revoked: %w", r.kind, err)
		}
		if err := pause(ctx, try); err != nil {
			return fmt.Errorf("session: %s: revoked: %w", r.kind, err)
		}
	}
	return fmt.Errorf("session: %s: revoked: changed by others %d times in a row", r.kind, revokedTries)
}

// pause waits for a random time of up to 2^try milliseconds, at most 16.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(mathrand.N(time.Millisecond << min(try, 4)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
