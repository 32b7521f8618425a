package storetest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// A store with one flaw has to fail the promise of that name. The flaws are
// those that were found in other libraries, and those that a new backend has
// most often.
func TestEveryFlawIsFound(t *testing.T) {
	for _, tt := range []struct {
		flaw     string
		promises []string
	}{
		{"an update creates", []string{
			"an update of a missing record is ErrNotFound and creates nothing",
			"after Delete no Save brings the session back",
			"after DeleteUser no Save brings a session back",
			"a slow request that ends after the sign-out does not bring the session back",
		}},
		{"a create replaces", []string{
			"Save with Version 0 never takes over an existing ID",
			"of several that create one ID exactly one wins",
		}},
		{"the last writer wins", []string{
			"a stale Version is ErrConflict and loses nothing",
			"a Save without a Tag is compared all the same",
			"400 increments by compare-and-set over two handles: 400",
			"of several that claim one old session exactly one wins",
			"two requests that change different values at once: both survive",
			"of two sign-ins on one old session at once one wins",
			"of 20 requests that Take one value exactly one gets it",
		}},
		{"compares, then writes", []string{
			"400 increments by compare-and-set over two handles: 400",
			"of several that save one version exactly one wins",
		}},
		{"an older version conflicts, a newer does not", []string{"a Version that was never written is ErrConflict"}},
		{"never expires", []string{"an expired record is never returned", "List shows no ended and no expired session"}},
		{"an expired record can be saved", []string{"an expired record counts as gone for Save"}},
		{"an expired record blocks its ID", []string{"an expired ID can be created again"}},
		{"an expired record can be touched", []string{"an expired record counts as gone for Touch"}},
		{"ignores the Deadline", []string{"no Save moves Expires past the Deadline", "Touch never moves Expires past the Deadline"}},
		{"touches backwards", []string{"Touch moves no time backwards, each on its own"}},
		{"a touch is a save", []string{
			"Touch changes neither values nor Version",
			"a Save that loaded before a Touch succeeds",
		}},
		{"a touch creates", []string{
			"Touch of a missing record is ErrNotFound and creates nothing",
			"after Delete no Touch brings the session back",
		}},
		{"adopts unknown tokens", []string{
			"a token that the server did not issue is ErrNotFound, and never adopted",
			"a token of another place is ErrNotFound",
			"a token that a client invents is no session, costs no write and sets no cookie",
		}},
		{"the ID is a token", []string{"a token that the server did not issue is ErrNotFound, and never adopted"}},
		{"a decoder that skips what it does not know", []string{"a token that the server did not issue is ErrNotFound, and never adopted"}},
		{"keeps the slice", []string{"Save neither keeps nor changes the record"}},
		{"counts in the caller's record", []string{"Save neither keeps nor changes the record"}},
		{"returns its own record", []string{"two Loads share no record"}},
		{"whole seconds", []string{"Load returns what Save wrote, to the millisecond"}},
		{"forgets Persist", []string{"Load returns what Save wrote, to the millisecond"}},
		{"text columns", []string{"values may be any bytes"}},
		{"cuts values", []string{"values up to MaxData come back"}},
		{"shows the token", []string{"no error shows a token or a value"}},
		{"an ended context is not found", []string{"a context that has ended never makes a live session ErrNotFound"}},
		{"deleting nothing is an error", []string{"deleting nothing is no error"}},
		{"caches", []string{"another handle sees a write at once", "after Delete the token opens nothing"}},
		{"passes over no copy", []string{
			"LoadAtLeast shows a client its own writes on every handle, whatever copies there are",
			"a user reads their own writes on every node, whatever copies there are",
		}},
		{"believes every version", []string{
			"LoadAtLeast of a version that was never written returns the newest",
			"a version that a client invents is no error and costs no more than a load",
		}},
		{"Close ends all", []string{"Close ends one handle and leaves the others working"}},
		{"lists markers", []string{"a Replaced marker is not listed, scanned or counted"}},
		{"keeps no markers", []string{
			"a Replaced marker is loaded like any record",
			"a request that comes with the old cookie after a sign-in sees Replaced, sets no cookie and changes nothing",
		}},
		{"ignores case", []string{"List mixes no two users up", "DeleteUser ends nobody else's sessions"}},
		{"a prefix is a user", []string{"List mixes no two users up", "DeleteUser ends nobody else's sessions"}},
		{"nobody is a user", []string{`List of user "" is empty`, `DeleteUser of user "" ends nothing`}},
		{"keeps nobody", []string{"DeleteUser keeps the session that it is told to keep"}},
		{"signs out by the clock", []string{"a sign-in that comes after DeleteUser returned is live"}},
		{"lists to the end", []string{"List can be left early", "Scan can be left early"}},
		{"enters users at the first save", []string{"what an update makes a session of the user is listed and ended"}},
		{"scans twice", []string{"Scan yields every live record once, with its values"}},
		{"scans without values", []string{"Scan yields every live record once, with its values"}},
		{"cleans all", []string{"Clean removes nothing that lives"}},
		{"cleans without limit", []string{"Clean removes no more than its limit"}},
	} {
		t.Run(tt.flaw, func(t *testing.T) {
			for _, name := range tt.promises {
				if verdict, _ := storetest.Try(t, name, flawed(tt.flaw)); verdict != "fail" {
					t.Errorf("%q: %s; want it to fail", name, verdict)
				}
			}
		})
	}
}

// Without a flaw the store keeps every promise: what fails above fails for its
// flaw.
func TestFlawlessStore(t *testing.T) {
	fresh := func(*testing.T) storetest.Backend { return flawed("")() }
	storetest.Run(t, fresh)
	storetest.RunHTTP(t, fresh)
}

func TestSkip(t *testing.T) {
	for _, tt := range []struct {
		why  string
		b    storetest.Backend
		fine bool
	}{
		{"nothing is skipped", storetest.Backend{}, true},
		{"a promise, with a reason", storetest.Backend{Skip: map[string]string{"deleting nothing is no error": "the server says so"}}, true},
		{"a promise of RunHTTP", storetest.Backend{Skip: map[string]string{"a flash message is shown once": "why"}}, true},
		{"no reason", storetest.Backend{Skip: map[string]string{"deleting nothing is no error": ""}}, false},
		{"renamed meanwhile", storetest.Backend{Skip: map[string]string{"deleting nothing is an error": "why"}}, false},
		{"asked of client-side stores alone", storetest.Backend{Skip: map[string]string{"DeleteUser ends every copy of the token": "why"}}, false},
		{"asked of it", storetest.Backend{ClientSide: true, Skip: map[string]string{"DeleteUser ends every copy of the token": "why"}}, true},
	} {
		if err := storetest.CheckSkip(tt.b); (err == nil) != tt.fine {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
}

// flawedStore is the simplest store, with one flaw.
type flawedStore struct {
	flaw  string
	clock *storetest.Clock

	mu      sync.Mutex
	records map[string]*session.Record
	ended   map[string]time.Time // users, and when DeleteUser was called
	entered map[string]string    // users of the first saves
	closed  bool
}

func flawed(flaw string) func() storetest.Backend {
	return func() storetest.Backend {
		s := &flawedStore{flaw: flaw, clock: &storetest.Clock{}, records: map[string]*session.Record{}, ended: map[string]time.Time{}, entered: map[string]string{}}
		return storetest.Backend{
			Open: func() session.Store {
				switch flaw {
				case "caches":
					return &cachingStore{flawedStore: s, cache: map[string]session.Record{}}
				case "passes over no copy", "believes every version":
					return &versionedStore{cachingStore{flawedStore: s, cache: map[string]session.Record{}}}
				}
				return s
			},
			Advance: s.clock.Advance,
		}
	}
}

// has tells whether the store has one of these flaws.
func (s *flawedStore) has(flaws ...string) bool { return slices.Contains(flaws, s.flaw) }

// live returns the record with this ID unless it has expired.
func (s *flawedStore) live(id string, but ...string) *session.Record {
	rec := s.records[id]
	if rec == nil || rec.Expired(s.clock.Now()) && !s.has(append(but, "never expires")...) {
		return nil
	}
	if at, ended := s.ended[rec.User]; ended && rec.SignedIn.Before(at) && s.has("signs out by the clock") {
		return nil
	}
	return rec
}

func (s *flawedStore) Load(ctx context.Context, token string) (*session.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("closed")
	}
	if ctx.Err() != nil && s.has("an ended context is not found") {
		return nil, session.ErrNotFound
	}
	if s.has("shows the token") && !session.WellFormed(token) {
		return nil, fmt.Errorf("%w: %.100q is malformed", session.ErrNotFound, token)
	}
	if s.has("a decoder that skips what it does not know") {
		token = strings.Trim(strings.ReplaceAll(token, "\n", ""), ` "`)
	}
	id := session.ID(token)
	if s.has("the ID is a token") && s.records[token] != nil {
		id = token
	}
	rec := s.live(id)
	if rec == nil && s.has("adopts unknown tokens") {
		rec = &session.Record{ID: id, Version: 1, Created: s.clock.Now(), Seen: s.clock.Now(), Expires: s.clock.Now().Add(time.Hour)}
		s.records[id] = rec
	}
	switch {
	case rec == nil:
		return nil, session.ErrNotFound
	case s.has("returns its own record"):
		return rec, nil
	}
	loaded := *rec
	return &loaded, nil
}

func (s *flawedStore) Save(_ context.Context, rec *session.Record) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.live(rec.ID, "an expired record can be saved", "an expired record blocks its ID")
	if s.has("an expired record blocks its ID") && rec.Version > 0 {
		old = s.live(rec.ID)
	}
	switch {
	case rec.Version == 0 && old != nil && !s.has("a create replaces"):
		return "", session.ErrConflict
	case rec.Version > 0 && old == nil && !s.has("an update creates"):
		return "", session.ErrNotFound
	case rec.Version > 0 && old != nil && old.Version < rec.Version && s.has("an older version conflicts, a newer does not"):
	case rec.Version > 0 && old != nil && old.Version != rec.Version && !s.has("the last writer wins"):
		return "", session.ErrConflict
	}
	if s.has("compares, then writes") || s.has("the last writer wins") {
		s.mu.Unlock()
		time.Sleep(100 * time.Microsecond) // long enough for the others to compare too
		s.mu.Lock()
	}
	saved := *rec
	saved.Tag = nil
	if !s.has("keeps the slice") {
		saved.Data = slices.Clone(rec.Data)
	}
	saved.Version = rec.Version + 1
	if old != nil && s.has("the last writer wins") {
		saved.Version = old.Version + 1
	}
	if s.has("counts in the caller's record") {
		rec.Version++
	}
	if !saved.Deadline.IsZero() && saved.Expires.After(saved.Deadline) && !s.has("ignores the Deadline") {
		saved.Expires = saved.Deadline
	}
	switch s.flaw {
	case "enters users at the first save":
		if rec.Version == 0 {
			s.entered[rec.ID] = rec.User
		}
	case "whole seconds":
		saved.Seen, saved.Expires = saved.Seen.Truncate(time.Second), saved.Expires.Truncate(time.Second)
	case "forgets Persist":
		saved.Persist = false
	case "text columns":
		saved.Data = []byte(strings.ToValidUTF8(string(saved.Data), "?"))
	case "cuts values":
		saved.Data = saved.Data[:min(len(saved.Data), 1<<15)]
	case "lists markers":
		if saved.Replaced && old != nil {
			saved.User = old.User
		}
	case "keeps no markers":
		if saved.Replaced {
			delete(s.records, saved.ID)
			return "", nil
		}
	}
	s.records[saved.ID] = &saved
	return "", nil
}

func (s *flawedStore) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[id] == nil && s.has("deleting nothing is an error") {
		return session.ErrNotFound
	}
	delete(s.records, id)
	return nil
}

func (s *flawedStore) Touch(_ context.Context, id string, seen, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.live(id, "an expired record can be touched")
	if old == nil {
		if s.has("a touch creates") {
			s.records[id] = &session.Record{ID: id, Version: 1, Seen: seen, Expires: expires}
			return nil
		}
		return session.ErrNotFound
	}
	rec := *old
	if seen.After(rec.Seen) || s.has("touches backwards") {
		rec.Seen = seen
	}
	if !rec.Deadline.IsZero() && expires.After(rec.Deadline) && !s.has("ignores the Deadline") {
		expires = rec.Deadline
	}
	if expires.After(rec.Expires) || s.has("touches backwards") {
		rec.Expires = expires
	}
	if s.has("a touch is a save") {
		rec.Version++
	}
	s.records[id] = &rec
	return nil
}

// of returns the live sessions of a user.
func (s *flawedStore) of(user string) (found []*session.Record) {
	for id := range s.records {
		rec := s.live(id)
		if rec == nil || rec.Replaced && !s.has("lists markers") || user == "" && !s.has("nobody is a user") {
			continue
		}
		switch {
		case rec.User == user && s.has("enters users at the first save") && s.entered[id] != user:
		case rec.User == user,
			s.has("ignores case") && strings.EqualFold(rec.User, user),
			s.has("a prefix is a user") && strings.HasPrefix(rec.User, user):
			found = append(found, rec)
		}
	}
	return found
}

func (s *flawedStore) List(_ context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		s.mu.Lock()
		found := s.of(user)
		s.mu.Unlock()
		for _, rec := range found {
			if !yield(rec.Info(), nil) && !s.has("lists to the end") {
				return
			}
		}
	}
}

func (s *flawedStore) DeleteUser(_ context.Context, user, keep string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, rec := range s.of(user) {
		if rec.ID != keep || s.has("keeps nobody") {
			delete(s.records, rec.ID)
			n++
		}
	}
	s.ended[user] = s.clock.Now()
	return n, nil
}

func (s *flawedStore) Scan(context.Context) iter.Seq2[*session.Record, error] {
	return func(yield func(*session.Record, error) bool) {
		s.mu.Lock()
		var found []*session.Record
		for id := range s.records {
			if rec := s.live(id); rec != nil && (!rec.Replaced || s.has("lists markers")) {
				found = append(found, rec)
			}
		}
		s.mu.Unlock()
		if s.has("scans twice") {
			found = append(found, found...)
		}
		for _, rec := range found {
			scanned := *rec
			if s.has("scans without values") {
				scanned.Data = nil
			}
			if !yield(&scanned, nil) && !s.has("lists to the end") {
				return
			}
		}
	}
}

func (s *flawedStore) Clean(_ context.Context, now time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit = cmp.Or(limit, len(s.records))
	n := 0
	for id, rec := range s.records {
		if (rec.Expired(now) || s.has("cleans all")) && (n < limit || s.has("cleans without limit")) {
			delete(s.records, id)
			n++
		}
	}
	return n, nil
}

func (s *flawedStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.has("Close ends all")
	return nil
}

// cachingStore believes what it saw first.
type cachingStore struct {
	*flawedStore
	cached sync.Mutex
	cache  map[string]session.Record
}

func (c *cachingStore) Load(ctx context.Context, token string) (*session.Record, error) {
	c.cached.Lock()
	defer c.cached.Unlock()
	if rec, ok := c.cache[token]; ok {
		return &rec, nil
	}
	rec, err := c.flawedStore.Load(ctx, token)
	if err == nil {
		c.cache[token] = *rec
	}
	return rec, err
}

// versionedStore has what tells it that its copy is old, and is wrong about it.
type versionedStore struct{ cachingStore }

func (v *versionedStore) LoadAtLeast(ctx context.Context, token string, version int64) (*session.Record, error) {
	rec, err := v.Load(ctx, token)
	if err != nil || rec.Version >= version || v.has("passes over no copy") {
		return rec, err
	}
	rec, err = v.flawedStore.Load(ctx, token)
	if err == nil && rec.Version < version {
		return nil, errors.New("the version that the client has seen is lost")
	}
	return rec, err
}
