package session

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Session is one request's view of a session. It is safe for concurrent use
// within the request. It begins as what the store had when From was first
// called; what the request changes is saved once, at the commit.
type Session struct {
	m *Manager
	q *request // nil when not over HTTP

	call  callContext // of the load
	mu    sync.Mutex
	view  values // the record's values with ops applied
	ops   []op   // what this request did to the values since the last commit
	token string // what the client holds, as far as this request knows
	rec   *Record
	stale bool // a client-side store sealed a new token: Save wants its Tag

	isNew    bool
	replaced bool // the token was renewed by another request
	mute     bool // sets no cookie, for it could take the place of a newer one
	born     time.Time

	// What is to happen at the commit.
	next     string    // the token of the record that is to be created
	nextUser string    // SetUser's
	device   string    // of who signs in
	signIn   bool      // SetUser was called
	renew    bool      // Renew was called
	at       time.Time // when SetUser was called
	ended    []*Record // Destroy was called on these
	clear    bool      // Destroy was called and nothing has been created since
	persist  bool
	persists bool // Persist changed it

	// What the client is to be told.
	send  sendToken
	saves bool // rec was saved by this request

	first error // Err
	fatal error // fails the commit
}

type sendToken int

const (
	sendNothing sendToken = iota
	sendSet
	sendClear
)

// ID returns the session's public name, safe in logs and lists. A session that
// is not saved yet has the ID that it will have; after SetUser and Renew it is
// the new one.
func (s *Session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec != nil && !s.signIn && !s.renew {
		return s.rec.ID
	}
	return ID(s.nextToken())
}

func (s *Session) nextToken() string {
	if s.next == "" {
		s.next = NewToken()
	}
	return s.next
}

// User returns who is signed in, "" for nobody.
func (s *Session) User() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user()
}

func (s *Session) user() string {
	switch {
	case s.signIn:
		return s.nextUser
	case s.rec != nil:
		return s.rec.User
	}
	return ""
}

// IsNew tells whether the request began without a session, or ended its own.
func (s *Session) IsNew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isNew
}

// Replaced tells that another request renewed the token a moment ago (Renew or
// SetUser) and this one still carries the old one. The session reads as empty,
// and what this request changes is dropped, but for a SetUser of its own. The
// right answer is "try again", not "sign in".
func (s *Session) Replaced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replaced && !s.signIn
}

// Created returns the start of the absolute lifetime.
func (s *Session) Created() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.created()
}

func (s *Session) created() time.Time {
	switch {
	case s.signIn:
		return s.at
	case s.rec != nil:
		return s.rec.Created
	}
	return s.born
}

// SignedIn returns when the user proved who they are, zero for nobody. For
// what needs a fresh proof, compare it with the time (ASVS 5.0, 7.5.1).
func (s *Session) SignedIn() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.signIn:
		return s.at
	case s.rec != nil:
		return s.rec.SignedIn
	}
	return time.Time{}
}

// Expires returns when the session ends if it is not used again.
func (s *Session) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec != nil && !s.signIn && !s.renew && !s.persists {
		return s.rec.Expires
	}
	_, expires := s.m.times(s.created(), s.m.now(), s.persist)
	return expires
}

// Deadline returns when the session ends, used or not.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec != nil && !s.signIn && !s.renew && !s.persists {
		return s.rec.Deadline
	}
	deadline, _ := s.m.times(s.created(), s.m.now(), s.persist)
	return deadline
}

// Persistent tells whether the client keeps the token when the browser closes.
func (s *Session) Persistent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.persist
}

// SetUser signs the user in: the session gets a new token, and the old one
// dies before the response is sent, so that nobody who planted or saw it is
// signed in with it (ASVS 5.0, 7.2.4). Created and SignedIn are now. The
// values stay if nobody or the same user was signed in; from another user it
// starts empty. SetUser("") sets Err: use Destroy.
func (s *Session) SetUser(user string) {
	device := s.m.device(s.q) // without the lock: it may look at the session
	s.mu.Lock()
	defer s.mu.Unlock()
	if user == "" {
		s.fail(errNoUser)
		return
	}
	if !validUser(user) {
		s.fail(&valueError{"user", errNotUTF8})
		return
	}
	if s.begun() {
		s.commitTooLate()
		return
	}
	if was := s.user(); was != "" && was != user {
		s.ops = nil
		s.view.reset(nil)
		s.persist, s.persists = false, false
	}
	s.nextToken()
	s.signIn, s.nextUser, s.device, s.at = true, user, device, s.m.now()
}

// Renew gives the session a new token and ID. The values and Created stay. Use
// it when what the session may do grows without a sign-in.
func (s *Session) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mute && !s.signIn:
		s.note(ErrNotFound)
		return
	case s.rec == nil || s.signIn:
		return // there is nothing to renew, or it is about to be
	case s.begun():
		s.commitTooLate()
		return
	}
	s.nextToken()
	s.renew = true
}

// Destroy signs out: it ends the record and clears the client's token. What is
// Set after it starts a new session. After the response has begun it still
// ends the record; Err is ErrCommitted then, for the cookie stays.
func (s *Session) Destroy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute {
		s.note(ErrNotFound) // the session that this token stood for has ended already
	}
	if s.rec != nil {
		s.ended = append(s.ended, s.rec)
	}
	s.clear = s.clear || s.token != "" && !s.mute
	s.rec, s.ops, s.next = nil, nil, ""
	s.view.reset(nil)
	s.signIn, s.renew, s.nextUser, s.stale = false, false, "", false
	s.persist, s.persists = false, false
	s.isNew, s.born = true, s.m.now()
}

// Persist makes the client keep the token when the browser closes
// ("remember me"), until the Deadline; or no longer. It is kept with the
// session, so that every later cookie stays so.
func (s *Session) Persist(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.persist == on {
		return
	}
	if s.begun() {
		s.commitTooLate()
		return
	}
	s.persist, s.persists = on, true
}

// Save commits now: before a stream, or before a long wait. It returns the
// failure, which the commit at the response's header reports again; and
// ErrNotFound if another request ended the session meanwhile, so that the
// changes were dropped.
func (s *Session) Save(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commitNow(ctx)
}

// Err returns the first failure of this session: a value that cannot be kept,
// a store that failed, ErrNotFound when the session was ended by another
// request, ErrCommitted when a change came too late.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// fail notes an error that the commit has to report.
func (s *Session) fail(err error) {
	s.note(err)
	if s.fatal == nil {
		s.fatal = err
	}
}

// note keeps the first error for Err.
func (s *Session) note(err error) {
	if s.first == nil {
		s.first = err
	}
}

// begun tells whether the response's header is sent or complete, so that no
// token reaches the client any more.
func (s *Session) begun() bool { return s.q != nil && s.q.told.Load() }

// commitTooLate notes, loudly, a change that cannot reach the client.
func (s *Session) commitTooLate() {
	if s.first != ErrCommitted {
		s.m.log.Error(ErrCommitted.Error()+"; call Save before the stream or the long wait begins", "id", s.recordID())
	}
	s.note(ErrCommitted)
}

func (s *Session) recordID() string {
	if s.rec != nil {
		return s.rec.ID
	}
	return ""
}

// change applies an op to the view and keeps it for the commit.
func (s *Session) change(o op) {
	if o.name == "" {
		s.fail(errZeroKey)
		return
	}
	if s.rec == nil && s.begun() && !s.mute {
		s.commitTooLate() // it would take a new cookie
		return
	}
	if err := o.apply(&s.view); err != nil {
		s.fail(err)
		return
	}
	if o.sets {
		s.ops = slices.DeleteFunc(s.ops, func(old op) bool { return old.name == o.name })
	}
	s.ops = append(s.ops, o)
}

// changed tells whether this request did something to the value: a replay may
// give another outcome than the view shows.
func (s *Session) changed(name string) bool {
	return slices.ContainsFunc(s.ops, func(o op) bool { return o.name == name })
}

// use makes rec the record that the session builds on, and its values with ops
// applied the view.
func (s *Session) use(rec *Record) error {
	if err := s.view.read(rec); err != nil {
		return err
	}
	s.rec = rec
	if !s.persists {
		s.persist = rec.Persist
	}
	return s.replay()
}

func (s *Session) replay() error {
	for _, o := range s.ops {
		if err := o.apply(&s.view); err != nil {
			return err
		}
	}
	return nil
}
