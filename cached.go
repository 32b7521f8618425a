package session

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net/url"
	"time"
)

func init() { Register("cached", openCached) }

// openCached opens cached:?store=…&max_stale=1s
func openCached(ctx context.Context, u *url.URL) (Store, error) {
	if err := onlyParams(u, "store"); err != nil {
		return nil, err
	}
	p := NewParams(u)
	inner := p.String("store", "")
	opts := &CachedOptions{
		MaxStale:    p.Duration("max_stale", cachedMaxStale),
		StaleIfDown: p.Duration("stale_if_down", 0),
		MaxBytes:    p.Int("max_bytes", cachedMaxBytes),
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	if inner == "" {
		return nil, configError("cached: store is missing; write cached:?store=… with the escaped URL of a server-side store")
	}
	backup, err := openInner(ctx, "cached", "store", inner)
	if err != nil {
		return nil, err
	}
	s := Cached(backup, opts)
	if err := misconfiguration(s); err != nil {
		_ = Close(backup)
		return nil, err
	}
	return s, nil
}

// CachedOptions configure Cached. The zero value suits most.
type CachedOptions struct {
	// MaxStale is how long a copy is read before the backup is asked again: the
	// longer, the faster, and the later this node sees what others did, such as
	// a DeleteUser. If 0, it is 1 second.
	MaxStale time.Duration

	// StaleIfDown is for how long beyond MaxStale a copy is still read while the
	// backup fails (as stale-if-error in RFC 5861, section 4). If 0, a copy past
	// MaxStale is never read, and the visitor sees 503.
	StaleIfDown time.Duration

	// MaxBytes bounds the memory that the copies take. If 0, it is 64 MiB: about
	// 50,000 sessions of half a kilobyte.
	MaxBytes int

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	cachedMaxStale = time.Second
	cachedMaxBytes = 64 << 20
)

// Cached answers from copies in this node's own memory; backup, any server-side
// store, has the truth. It makes sessions that are pinned to a node as fast as
// memory, and safe when the node dies. There is no owner, no lock, and nothing
// for balancers to agree on: if a user comes to another node, that one loads the
// session. Affinity only makes the copies hit.
//
// # Guarantees
//
// Every save is the backup's compare-and-set, so no update is lost and nothing
// that ended comes back, whatever a node believes. Only then does it replace the
// copy; a conflict drops it.
//
// A read is no older than MaxStale: it is of a copy that the backup gave or took
// within that time, counted from before it was asked; otherwise of one load,
// which parallel requests share. A load that a save, a touch or the session's
// end on this node has overtaken leaves no copy. That a token opens nothing is
// never remembered. What this node itself did, it sees at once; what others did,
// a sign-out too, within MaxStale. Over a backup that answers from copies itself,
// such as natsstore with Local, its own MaxStale is added to this one.
//
// A user always reads their own writes, on any node, behind any balancer: the
// Manager keeps the version that the browser last saw in a companion of the
// session's cookie (see VersionTransport), and LoadAtLeast passes over an older
// copy. That takes a change that was saved before the response's header; not one
// that was made after it began, and not one over Manager.Session and Commit.
// Whoever forges the companion of their own session buys no more than a load a
// request. Of responses that overlap, the browser keeps the version of the one that
// came last; what another one saved is then seen within MaxStale.
//
// # Expiry
//
// An expired copy is no answer: the backup is asked, for another node may have
// touched the session. Touches reach the backup, but not those that would move
// its times by less than a second and less than a twentieth of what is left, and
// of several at once one does.
//
// # Failure
//
// While the backup fails, copies are read until they are past MaxStale, or
// MaxStale and StaleIfDown; of a session whose save has failed with an unknown
// outcome only the latter. Saves fail.
//
// A node that was stopped (SIGSTOP, a suspended machine) trusts no copy when it
// goes on: a copy's age is the longest that the monotonic clock, the wall clock
// and Now tell, and a wall clock that was set back makes it too old. What no node
// can notice is that it was stopped between the check and the answer, and a pause
// of a virtual machine that stops all its clocks; even then no update is lost and
// users read their own writes.
//
// # Configuration
//
// It goes around Encrypted, whose values are then in clear in this node's memory
// and cost nothing to read, and around Migrating: Cached(Encrypted(store)). Inside
// Encrypted it works too, and the copies stay sealed; inside Migrating it is
// ErrConfig. While nodes of both kinds migrate in opposite directions, a user may
// miss their own write for MaxStale after the session moved. As the Revoked of a
// client-side store it delays sign-outs by up to MaxStale.
//
// It has the abilities that backup has, and AtLeaster. Lists and scans are the
// backup's own. Close closes backup.
//
// A nil or client-side backup, or options that are negative, are ErrConfig from
// New, and from every call.
func Cached(backup Store, opts *CachedOptions) Store {
	if opts == nil {
		opts = &CachedOptions{}
	}
	if err := serverSide("cached", "the backup", backup); err != nil {
		return misconfigured{err}
	}
	switch {
	case isCached(backup):
		return misconfigured{configError("cached: the backup is Cached itself; once is enough")}
	case opts.MaxStale < 0 || opts.StaleIfDown < 0 || opts.MaxBytes < 0:
		return misconfigured{configError("CachedOptions: MaxStale, StaleIfDown and MaxBytes cannot be negative; leave them 0 for the defaults")}
	}
	s := &cached{backup: backup}
	s.now = opts.Now
	s.maxStale = cmp.Or(opts.MaxStale, cachedMaxStale)
	s.limit = s.maxStale + opts.StaleIfDown
	if s.limit < 0 {
		return misconfigured{configError("CachedOptions: MaxStale and StaleIfDown are longer than time can tell; shorten them")}
	}
	s.makeRoom(cmp.Or(opts.MaxBytes, cachedMaxBytes))
	s.abilities = s.links()
	return s
}

func isCached(s Store) bool {
	_, ok := As[*cached](s)
	return ok
}

// misconfigured is what a constructor without an error returns for options that
// must not start. New, Open and the other wrappers refuse it; whoever calls it
// all the same gets the error.
type misconfigured struct{ err error }

// misconfiguration is the error that s was made of, through wrappers; nil for
// any other store.
func misconfiguration(s Store) error {
	if m, ok := As[misconfigured](s); ok {
		return m.err
	}
	return nil
}

func (s misconfigured) Load(context.Context, string) (*Record, error) { return nil, s.err }
func (s misconfigured) LoadAtLeast(context.Context, string, int64) (*Record, error) {
	return nil, s.err
}
func (s misconfigured) Save(context.Context, *Record) (string, error)             { return "", s.err }
func (s misconfigured) Delete(context.Context, string) error                      { return s.err }
func (s misconfigured) DeleteUser(context.Context, string, string) (int, error)   { return 0, s.err }
func (s misconfigured) Touch(context.Context, string, time.Time, time.Time) error { return s.err }
func (s misconfigured) Clean(context.Context, time.Time, int) (int, error)        { return 0, s.err }
func (s misconfigured) Lease(context.Context, string, time.Duration) (bool, error) {
	return false, s.err
}

func (s misconfigured) List(context.Context, string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) { yield(Info{}, s.err) }
}

func (s misconfigured) Scan(context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) { yield(nil, s.err) }
}

// cached is the Store; cached_copies.go has the copies, and cached_clock.go tells
// how old they are.
type cached struct {
	backup    Store
	abilities Store // what As finds behind it
	copies
}

func (s *cached) Unwrap() Store { return s.abilities }

// Close forgets the copies and closes the backup.
func (s *cached) Close() error {
	s.copies.close()
	return Close(s.backup)
}

// Load implements Store.
func (s *cached) Load(ctx context.Context, token string) (*Record, error) {
	return s.LoadAtLeast(ctx, token, 0)
}

// Save implements Store.
func (s *cached) Save(ctx context.Context, rec *Record) (token string, err error) {
	if _, ours := rec.Tag.(*scanned); ours {
		tagless := *rec
		tagless.Tag = nil
		rec = &tagless
	}
	sh := s.shard(rec.ID)
	began := sh.begin(rec.ID)
	returned := false
	defer func() {
		if !returned { // a panic: what it did is unknown
			sh.doubted(rec.ID)
		}
	}()
	token, err = s.backup.Save(ctx, rec)
	returned = true
	switch outcomeOf(err) {
	case applied:
		sh.saved(rec, began)
	case refused:
		sh.drop(rec.ID)
	case unknown:
		sh.doubted(rec.ID)
	}
	return token, err
}

// Delete implements Store.
func (s *cached) Delete(ctx context.Context, id string) error {
	defer s.shard(id).drop(id) // it may be gone whatever the answer is
	return s.backup.Delete(ctx, id)
}

// LoadAtLeast implements AtLeaster.
func (s *cached) LoadAtLeast(ctx context.Context, token string, version int64) (*Record, error) {
	if !WellFormed(token) {
		return nil, ErrNotFound
	}
	id := ID(token)
	sh := s.shard(id)
	for joined := false; ; joined = true {
		rec, l, mine := sh.look(id, version, joined)
		switch {
		case rec != nil:
			return rec, nil
		case mine:
			return s.renew(ctx, sh, l, token, version)
		}
		select {
		case <-l.done:
		case <-ctx.Done():
			return sh.instead(id, version, fmt.Errorf("session: cached: load: waiting for another request's load: %w", ctx.Err()))
		}
		// What l began before this request came, or asked the backup for less, may
		// be older than version. The next that is joined is not.
		switch {
		case l.err == nil && (joined || covers(l.rec.Version, version)):
			rec := *l.rec
			return &rec, nil
		case l.err == nil, isContextError(l.err) && ctx.Err() == nil:
			continue // the other request's time was up, not this one's
		case outcomeOf(l.err) != refused:
			return sh.instead(id, version, l.err)
		case joined || version == 0:
			return nil, l.err
		}
	}
}

// renew is the load that other requests share.
func (s *cached) renew(ctx context.Context, sh *shard, l *sharedLoad, token string, version int64) (*Record, error) {
	defer sh.finish(l)
	l.err = errSharedPanic // until it is known better
	rec, err := loadAtLeast(ctx, s.backup, token, version)
	switch l.err = err; outcomeOf(err) {
	case applied:
		l.rec = sh.loaded(rec, l, version)
		return rec, nil // with its Tag
	case refused:
		sh.ended(l)
		return nil, err
	}
	return sh.instead(l.id, version, err)
}

var (
	_ Store     = (*cached)(nil)
	_ AtLeaster = (*cached)(nil)
	_ Store     = misconfigured{}
)
