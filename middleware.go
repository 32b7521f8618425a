package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Options configure a Manager. The zero value is the safe default.
type Options struct {
	// Transport carries the token in HTTP. If nil, it is the cookie
	// "__Host-session" with Path=/, Secure, HttpOnly and SameSite=Lax.
	Transport Transport

	// IdleTimeout ends a session that has not been used for this long. If 0, it
	// is 30 minutes; if negative, only Lifetime ends a session. The last use is
	// known to within a tenth of it.
	IdleTimeout time.Duration

	// Lifetime ends a session this long after it was created or signed in, used
	// or not. If 0, it is 12 hours; it is never unlimited. Thirty minutes and 12
	// hours are within what NIST SP 800-63B-4, 2.2.3 asks for at AAL2.
	Lifetime time.Duration

	// PersistLifetime is the Lifetime of a session that asked to Persist
	// ("remember me"); IdleTimeout does not end it. If 0, it is as any other.
	PersistLifetime time.Duration

	// Timeout bounds each call of the store; a commit with its replays takes at
	// most three. If 0, it is 1 second.
	Timeout time.Duration

	// MaxData bounds the bytes of a session's values; a commit of more is
	// ErrTooLarge. If 0, it is 64 KiB.
	MaxData int

	// MaxSessions is how many live sessions a user may have; a sign-in beyond
	// it ends the oldest. If 0, there is no limit. ErrConfig on a store that
	// cannot List.
	MaxSessions int

	// Now is the clock; nil is time.Now. Each backend's options have one too.
	Now func() time.Time

	// Device names the client at sign-in, for Record.Device, such as "Firefox
	// on Linux". If nil, it is "".
	Device func(*http.Request) string

	// ErrorHandler answers for a commit that failed before the response began,
	// and for a store that failed when the handler has not answered. If nil, it
	// answers 503 with Retry-After for a failed store (errors.Is(err, ErrStore))
	// and 500 otherwise, with no details; the Logger has them.
	ErrorHandler func(http.ResponseWriter, *http.Request, error)

	// Logger; nil is slog.Default().
	Logger *slog.Logger

	// Insecure is for development over plain http on localhost: the cookie
	// loses its prefix and Secure.
	Insecure bool
}

const (
	defaultIdle     = 30 * time.Minute
	defaultLifetime = 12 * time.Hour
	defaultTimeout  = time.Second
	defaultMaxData  = 64 << 10

	// maxLifetime is what browsers cut a cookie's life to
	// (draft-ietf-httpbis-rfc6265bis, 5.5).
	maxLifetime = 400 * 24 * time.Hour

	// maxSkew is how far ahead another node's clock may be.
	maxSkew = 5 * time.Minute
)

// Manager ties a store, a transport and timeouts to an http.Handler. It is
// safe for concurrent use.
type Manager struct {
	store     Store
	toucher   Toucher // nil: the store is touched by a Save
	transport Transport
	versions  VersionTransport // nil: the store does not answer from copies, or the transport carries none
	maxToken  int              // 0: the transport does not say
	vary      string

	opts        Options
	idle        time.Duration // 0: none
	lifetime    time.Duration
	timeout     time.Duration
	maxData     int
	touchEvery  time.Duration
	resealAfter time.Duration
	clock       func() time.Time
	log         *slog.Logger

	lanes      *lanes
	mismatched sync.Map // names of keys whose type did not fit
	stats      struct{ unreadable, conflicts, dropped, failures atomic.Int64 }
}

// New returns a Manager for the sessions in store. A configuration that must
// not start is ErrConfig.
func New(store Store, opts *Options) (*Manager, error) {
	if opts == nil {
		opts = &Options{}
	}
	if isNil(store) {
		return nil, configError("the store is nil; make one with Open, or with a constructor such as NewMemoryStore")
	}
	if err := misconfiguration(store); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"Lifetime", opts.Lifetime}, {"PersistLifetime", opts.PersistLifetime}} {
		if d.d < 0 || d.d > maxLifetime {
			return nil, configError("Options.%s is %v; it takes more than 0 and at most 400 days, for which browsers keep a cookie", d.name, d.d)
		}
	}
	if opts.Timeout < 0 || opts.MaxData < 0 || opts.MaxSessions < 0 {
		return nil, configError("Options.Timeout, MaxData and MaxSessions cannot be negative; 0 is the default")
	}
	if _, ok := As[Lister](store); !ok && opts.MaxSessions > 0 {
		return nil, configError("Options.MaxSessions is %d, but the store cannot list a user's sessions; set it to 0 or use a server-side store", opts.MaxSessions)
	}
	transport, err := newTransport(opts)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		store: store, transport: transport, vary: http.CanonicalHeaderKey(transport.Vary()),
		opts: *opts, clock: nowOr(opts.Now), log: opts.Logger, lanes: newLanes(),
		idle: opts.IdleTimeout, lifetime: opts.Lifetime, timeout: opts.Timeout, maxData: opts.MaxData,
	}
	if m.idle == 0 {
		m.idle = defaultIdle
	}
	if m.lifetime == 0 {
		m.lifetime = defaultLifetime
	}
	if m.timeout == 0 {
		m.timeout = defaultTimeout
	}
	if m.maxData == 0 {
		m.maxData = defaultMaxData
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	if l, ok := As[longestLiver](store); ok && max(m.lifetime, opts.PersistLifetime) > l.longestLife() {
		return nil, configError("Options.Lifetime or PersistLifetime is longer than the %v that the store accepts of a token; raise the store's Lifetime or shorten these", l.longestLife())
	}
	m.idle = max(m.idle, 0)
	m.touchEvery, m.resealAfter = m.idle/10, m.idle/2
	if m.idle == 0 {
		m.touchEvery, m.resealAfter = m.lifetime/10, m.lifetime/2
	}
	m.toucher, _ = As[Toucher](store)
	if _, ok := As[AtLeaster](store); ok {
		m.versions, _ = transport.(VersionTransport)
	}
	if t, ok := transport.(interface{ MaxToken() int }); ok {
		m.maxToken = t.MaxToken()
	}
	return m, nil
}

// Handler makes sessions available to next: From returns the session of the
// request's context, and changes are committed before the response's header is
// sent. A handler that never calls From costs no call of the store, no header
// and no cookie. Wrapping a handler twice is wrapping it once.
//
// A panic in next commits nothing and goes on up. A handler that takes over the
// connection (Hijack) writes the header itself: a new token is in w.Header()
// then, as Set-Cookie.
func (m *Manager) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(m) != nil {
			next.ServeHTTP(w, r)
			return
		}
		q := &request{Context: r.Context(), m: m, start: m.clock()}
		q.r = r.WithContext(q)
		next.ServeHTTP(q.wrap(w), q.r)
		q.finish()
	})
}

// contextKey finds the request of the innermost manager in a context.
type contextKey struct{}

// From returns the session of the innermost manager whose Handler the context
// passed through. The first call loads it. The error is ErrNoSession, or the
// store's failure: a handler may answer that itself, and if it returns without
// answering, the ErrorHandler does.
func From(ctx context.Context) (*Session, error) {
	if q, ok := ctx.Value(contextKey{}).(*request); ok {
		return q.session()
	}
	return nil, ErrNoSession
}

// From is the function From where several managers nest.
func (m *Manager) From(ctx context.Context) (*Session, error) {
	if q, ok := ctx.Value(m).(*request); ok {
		return q.session()
	}
	return nil, ErrNoSession
}

// Session returns the session that token stands for, a new one if it stands
// for none. It is for what does not come over HTTP: gRPC, a queue. Call Commit
// when done. Nothing goes with the token that tells which version the caller has
// seen, so a store that answers from copies may return an older one.
func (m *Manager) Session(ctx context.Context, token string) (*Session, error) {
	return m.load(ctx, token, 0, m.clock())
}

// Commit saves what was changed in a session that Session returned, and
// returns the token that the client must hold now: "" if there is no session,
// as after Destroy. ErrNotFound: another request ended the session, and the
// changes were dropped. Of a session that is Replaced ask before: another
// request holds its new token.
func (m *Manager) Commit(ctx context.Context, s *Session) (token string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := s.pending()
	if err := s.commitNow(ctx); err != nil {
		return "", err
	}
	switch {
	case s.rec == nil:
		return "", nil
	case !pending:
		s.touch(ctx)
	}
	return s.token, nil
}

// Stats counts what an operator may want to watch, since the start.
type Stats struct {
	Unreadable int64 // records that could not be decoded, and so were no session
	Conflicts  int64 // saves that another request's came before, and were replayed
	Dropped    int64 // changes of sessions that another request had ended
	Failures   int64 // loads and commits that failed
}

// Stats returns the counters.
func (m *Manager) Stats() Stats {
	return Stats{
		Unreadable: m.stats.unreadable.Load(), Conflicts: m.stats.conflicts.Load(),
		Dropped: m.stats.dropped.Load(), Failures: m.stats.failures.Load(),
	}
}

// load returns the session behind token, in a version that the client has seen
// or a newer one, for a request that began at start.
func (m *Manager) load(ctx context.Context, token string, version int64, start time.Time) (*Session, error) {
	wall := time.Now()
	now := m.at(wall)
	s := &Session{m: m, token: token, born: now}
	rec, err := m.loadRecord(s.call.begin(ctx, wall.Add(m.timeout)), token, version, now)
	s.call.end()
	if err == nil {
		if err = s.view.read(rec); err != nil {
			err = fmt.Errorf("%w: the values of %s cannot be decoded: %w", ErrNotFound, rec.ID, err)
		}
	}
	switch {
	case err == nil && rec.Replaced:
		s.replaced, s.mute = true, true
		s.view.reset(nil)
	case err == nil:
		s.rec, s.persist = rec, rec.Persist
	case errors.Is(err, ErrNotFound):
		if err != ErrNotFound {
			m.stats.unreadable.Add(1)
			m.log.Warn("session: a record is no session", "error", err)
		}
		s.view.reset(nil)
		s.isNew = true
		// The token may have been renewed while this request was running, and
		// the marker be gone: a cookie of ours could overwrite the new one.
		s.mute = token != "" && now.Sub(start) > replacedFor
	default:
		if ctx.Err() == nil { // otherwise the caller has gone
			m.stats.failures.Add(1)
		}
		return nil, &storeError{"load", err}
	}
	return s, nil
}

func (m *Manager) loadRecord(ctx context.Context, token string, version int64, now time.Time) (*Record, error) {
	if token == "" {
		return nil, ErrNotFound
	}
	rec, err := loadAtLeast(ctx, m.store, token, version)
	if err != nil {
		return nil, err
	}
	if rec.Expired(now) || !rec.Replaced && m.over(rec, now) {
		return nil, ErrNotFound
	}
	return rec, nil
}

// over tells whether the session has ended by the timeouts as they are
// configured now, whatever they were when it was saved.
func (m *Manager) over(rec *Record, now time.Time) bool {
	lifetime, idle := m.limits(rec.Persist)
	ahead := now.Add(maxSkew) // later is planted, or from a clock that is far off
	return !now.Before(rec.Created.Add(lifetime)) ||
		idle > 0 && !now.Before(rec.Seen.Add(idle)) ||
		rec.Created.After(ahead) || rec.Seen.After(ahead) || rec.SignedIn.After(ahead)
}

func (m *Manager) limits(persist bool) (lifetime, idle time.Duration) {
	if persist && m.opts.PersistLifetime > 0 {
		return m.opts.PersistLifetime, 0
	}
	return m.lifetime, m.idle
}

// times returns when a session that is used now ends.
func (m *Manager) times(created, now time.Time, persist bool) (deadline, expires time.Time) {
	lifetime, idle := m.limits(persist)
	deadline = created.Add(lifetime)
	expires = deadline
	if idle > 0 && now.Add(idle).Before(deadline) {
		expires = now.Add(idle)
	}
	return deadline, expires
}

// latest is when the last token of the session ends, whatever another request
// makes of Persist meanwhile.
func (m *Manager) latest(rec *Record) time.Time {
	if rec.Created.IsZero() {
		return rec.Deadline
	}
	return rec.Created.Add(max(m.lifetime, m.opts.PersistLifetime))
}

// now is the clock's time as records keep it.
func (m *Manager) now() time.Time { return m.clock().UTC().Truncate(time.Millisecond) }

// at is now, if the caller has just asked time.Now.
func (m *Manager) at(wall time.Time) time.Time {
	if m.opts.Now != nil {
		return m.now()
	}
	return wall.UTC().Truncate(time.Millisecond)
}

func (m *Manager) device(q *request) string {
	if m.opts.Device == nil || q == nil {
		return ""
	}
	d := m.opts.Device(q.r)
	if !utf8.ValidString(d) {
		return ""
	}
	return d
}

func validUser(user string) bool { return utf8.ValidString(user) }

// checkToken refuses a token that the transport cannot carry.
func (m *Manager) checkToken(token string) error {
	if m.maxToken > 0 && len(token) > m.maxToken {
		return fmt.Errorf("%w: the token takes %d bytes and the transport carries %d; keep less in the session, or use a server-side store",
			ErrTooLarge, len(token), m.maxToken)
	}
	return nil
}

func (m *Manager) logMismatch(name string, want reflect.Type) {
	if _, known := m.mismatched.LoadOrStore(name, true); !known {
		m.log.Warn("session: a value is of another type than its key, and reads as not there", "key", name, "want", want.String())
	}
}

// storeError is a failure of the store, which is not the visitor's fault and
// not the handler's: 503.
type storeError struct {
	op  string
	err error
}

func (e *storeError) Error() string {
	if s := e.err.Error(); strings.HasPrefix(s, "session: ") {
		return s // the store has said which call it was
	}
	return "session: " + e.op + ": " + e.err.Error()
}

func (e *storeError) Unwrap() error        { return e.err }
func (e *storeError) Is(target error) bool { return target == ErrStore }

// handleError is the default ErrorHandler.
func handleError(w http.ResponseWriter, _ *http.Request, err error) {
	w.Header().Set("Cache-Control", "no-store")
	if errors.Is(err, ErrStore) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrConfig) && !errors.Is(err, errors.ErrUnsupported) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Service Unavailable", http.StatusServiceUnavailable)
		return
	}
	http.Error(w, "Internal Server Error", http.StatusInternalServerError)
}
