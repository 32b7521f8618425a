package session

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// request is one request under a manager: the context that From finds, the
// session, and the writer that commits before the header is sent.
type request struct {
	context.Context
	m     *Manager
	r     *http.Request // as the handler sees it
	start time.Time

	load   sync.Mutex
	looked bool // From was called
	s      *Session
	err    error // of the load

	told   atomic.Bool // the header says of the token what it will ever say
	begun  atomic.Bool // the header is sent, or being sent
	once   sync.Mutex
	failed error       // of the commit: the response is the ErrorHandler's
	before http.Header // what outer middleware had set
	out    full
}

// Value makes the request findable by From.
func (q *request) Value(key any) any {
	switch k := key.(type) {
	case contextKey:
		return q
	case *Manager:
		if k == q.m {
			return q
		}
	}
	return q.Context.Value(key)
}

// session loads the session at the first call.
func (q *request) session() (*Session, error) {
	q.load.Lock()
	defer q.load.Unlock()
	if !q.looked {
		token := q.m.transport.Token(q.r)
		q.s, q.err = q.m.load(q.Context, token, q.m.versionSeen(q.r, token), q.start)
		if q.s != nil {
			q.s.q = q
		}
		q.looked = true // not before: the store may have panicked
	}
	return q.s, q.err
}

// state returns the session if one was loaded.
func (q *request) state() (s *Session, looked bool, err error) {
	q.load.Lock()
	defer q.load.Unlock()
	return q.s, q.looked, q.err
}

// begin commits, once, before the response begins. Its error is the commit's;
// the ErrorHandler has answered then.
func (q *request) begin() error {
	if q.begun.Load() {
		return q.failed
	}
	q.once.Lock()
	defer q.once.Unlock()
	if q.begun.Load() {
		return q.failed
	}
	q.load.Lock()
	s, looked := q.s, q.looked
	q.told.Store(s == nil)
	q.load.Unlock()
	var err error
	if s != nil {
		err = q.commit(s)
	}
	switch {
	case err != nil:
		q.abort(err)
	case looked:
		addVary(q.out.inner.Header(), q.m.vary)
	}
	q.begun.Store(true) // last: what others write now finds the header complete
	return err
}

// commit saves the session and puts what the client is to be told into the
// header.
func (q *request) commit(s *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := s.pending()
	// ErrNotFound: another request ended the session; the response goes on.
	if err := s.commitNow(q.Context); err != nil && !errors.Is(err, errGone) {
		return err
	}
	if !pending {
		s.touch(q.Context)
	}
	q.tell(s)
	return nil
}

// tell puts what the client is to be told of its session into the header. s.mu is
// held.
func (q *request) tell(s *Session) {
	q.told.Store(true)
	told := true
	switch {
	case s.send == sendSet && s.rec != nil: // nil: Destroy was called, and failed
		q.m.transport.SetToken(q.out.inner, q.r, s.token, s.rec.keptUntil())
	case s.send == sendClear:
		q.m.transport.ClearToken(q.out.inner, q.r)
	default:
		told = false
	}
	if q.tellVersion(s) || told {
		q.keepPrivate()
	}
}

// keepPrivate keeps shared caches from handing one user's token to another
// (CVE-2023-30861): the handler's own Cache-Control stays if it is private or
// no-store.
func (q *request) keepPrivate() {
	h := q.out.inner.Header()
	var own []string
	for name, lines := range h {
		if forCaches(name) && !isPrivate(lines) {
			own = append(own, name+": "+strings.Join(lines, ", "))
			delete(h, name)
		}
	}
	if !isPrivate(h["Cache-Control"]) {
		h.Set("Cache-Control", "no-store")
	}
	if len(own) > 0 {
		slices.Sort(own)
		q.m.log.Warn("session: a response that sets the session's cookies must not be cached for others; its header was replaced by Cache-Control: no-store",
			"path", q.r.URL.Path, "was", strings.Join(own, "; "))
	}
}

// forCaches tells whether a header says what caches may keep: Cache-Control, a
// targeted field (RFC 9213; CDN-Cache-Control and those of single vendors) or an
// older one, which would all overrule it.
func forCaches(name string) bool {
	switch name {
	case "Cache-Control", "Surrogate-Control", "Edge-Control", "X-Accel-Expires":
		return true
	}
	return strings.HasSuffix(name, "-Cache-Control")
}

func isPrivate(lines []string) bool {
	for _, line := range lines {
		for d := range strings.SplitSeq(line, ",") {
			if d = strings.TrimSpace(d); strings.EqualFold(d, "private") || strings.EqualFold(d, "no-store") {
				return true
			}
		}
	}
	return false
}

func addVary(h http.Header, name string) {
	for _, line := range h["Vary"] {
		for v := range strings.SplitSeq(line, ",") {
			if v = strings.TrimSpace(v); v == "*" || strings.EqualFold(v, name) {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], name)
}

// abort answers with the ErrorHandler. The headers that the handler set would
// spoil that answer (an ETag, a Content-Length, a Location); those of outer
// middleware stay.
func (q *request) abort(err error) {
	q.failed = err
	h := q.out.inner.Header()
	clear(h)
	for name, lines := range q.before {
		h[name] = lines
	}
	addVary(h, q.m.vary)
	if s, _, _ := q.state(); s != nil {
		s.mu.Lock()
		q.tell(s) // what an earlier Save did stays done: the old token may be dead
		s.mu.Unlock()
	}
	level := slog.LevelError
	if q.Context.Err() != nil {
		level = slog.LevelDebug // the client has gone, and took the request's context with it
	}
	q.m.log.Log(q.Context, level, "session: the request failed", "error", err, "method", q.r.Method, "path", q.r.URL.Path)
	handle := q.m.opts.ErrorHandler
	if handle == nil {
		handle = handleError
	}
	handle(q.out.inner, q.r, err)
}

// finish is called when the handler has returned.
func (q *request) finish() {
	s, _, loadErr := q.state()
	if !q.begun.Load() {
		if loadErr != nil {
			q.abort(loadErr)
			q.begun.Store(true)
			return
		}
		q.begin()
		return
	}
	if s == nil || q.failed != nil {
		return
	}
	// What was changed after the response began is saved if the client's token
	// stays; what needs another token comes too late, and Err and the log say so.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.commitNow(q.Context); err != nil && !errors.Is(err, errGone) && !errors.Is(err, ErrCommitted) {
		q.m.log.Error("session: a change made after the response began is lost", "error", err, "path", q.r.URL.Path)
	}
}

// wrap returns a writer that commits before the header is sent, and that is a
// Flusher, a Hijacker and an io.ReaderFrom exactly if w is.
func (q *request) wrap(w http.ResponseWriter) http.ResponseWriter {
	if h := w.Header(); len(h) > 0 {
		q.before = h.Clone()
	}
	q.out.writer = writer{q: q, inner: w}
	p := &q.out
	_, flush := w.(http.Flusher)
	_, hijack := w.(http.Hijacker)
	_, readFrom := w.(io.ReaderFrom)
	switch {
	case flush && hijack && readFrom:
		return p
	case flush && hijack:
		return (*flushHijack)(p)
	case flush && readFrom:
		return (*flushRead)(p)
	case hijack && readFrom:
		return (*hijackRead)(p)
	case flush:
		return (*flushOnly)(p)
	case hijack:
		return (*hijackOnly)(p)
	case readFrom:
		return (*readOnly)(p)
	}
	return (*plain)(p)
}

// writer is what all the writers have in common.
type writer struct {
	q     *request
	inner http.ResponseWriter
}

func (w *writer) Header() http.Header { return w.inner.Header() }

func (w *writer) WriteHeader(code int) {
	// 103 and the like come before the final headers (RFC 8297, section 2), so
	// the session may still change: do not commit yet.
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		if !w.q.begun.Load() {
			w.inner.WriteHeader(code)
		}
		return
	}
	if w.q.begin() == nil {
		w.inner.WriteHeader(code)
	}
}

func (w *writer) Write(b []byte) (int, error) {
	if err := w.q.begin(); err != nil {
		return 0, err
	}
	return w.inner.Write(b)
}

func (w *writer) WriteString(s string) (int, error) {
	if err := w.q.begin(); err != nil {
		return 0, err
	}
	return io.WriteString(w.inner, s)
}

// Unwrap is for http.ResponseController: a writer that commits too, never the
// inner one, or the controller would pass the commit by.
func (w *writer) Unwrap() http.ResponseWriter { return &controlled{w} }

func (w *writer) flush() error {
	if err := w.q.begin(); err != nil {
		return err
	}
	return http.NewResponseController(w.inner).Flush()
}

func (w *writer) hijack() (net.Conn, *bufio.ReadWriter, error) {
	if err := w.q.begin(); err != nil {
		return nil, nil, err
	}
	return http.NewResponseController(w.inner).Hijack()
}

func (w *writer) readFrom(r io.Reader) (int64, error) {
	if err := w.q.begin(); err != nil {
		return 0, err
	}
	return w.inner.(io.ReaderFrom).ReadFrom(r)
}

// The writers by what the inner one can do. They are one struct, so that a
// pointer to one is a pointer to any, and the choice costs no allocation.
type (
	full        struct{ writer }
	flushHijack struct{ writer }
	flushRead   struct{ writer }
	hijackRead  struct{ writer }
	flushOnly   struct{ writer }
	hijackOnly  struct{ writer }
	readOnly    struct{ writer }
	plain       struct{ writer }
)

func (w *full) Flush()                                              { w.flush() }
func (w *full) FlushError() error                                   { return w.flush() }
func (w *full) Hijack() (net.Conn, *bufio.ReadWriter, error)        { return w.hijack() }
func (w *full) ReadFrom(r io.Reader) (int64, error)                 { return w.readFrom(r) }
func (w *flushHijack) Flush()                                       { w.flush() }
func (w *flushHijack) FlushError() error                            { return w.flush() }
func (w *flushHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }
func (w *flushRead) Flush()                                         { w.flush() }
func (w *flushRead) FlushError() error                              { return w.flush() }
func (w *flushRead) ReadFrom(r io.Reader) (int64, error)            { return w.readFrom(r) }
func (w *hijackRead) Hijack() (net.Conn, *bufio.ReadWriter, error)  { return w.hijack() }
func (w *hijackRead) ReadFrom(r io.Reader) (int64, error)           { return w.readFrom(r) }
func (w *flushOnly) Flush()                                         { w.flush() }
func (w *flushOnly) FlushError() error                              { return w.flush() }
func (w *hijackOnly) Hijack() (net.Conn, *bufio.ReadWriter, error)  { return w.hijack() }
func (w *readOnly) ReadFrom(r io.Reader) (int64, error)             { return w.readFrom(r) }

// controlled has what http.ResponseController asks for. Each method says so
// itself where the inner writer cannot.
type controlled struct{ *writer }

func (w *controlled) FlushError() error {
	if !can[http.Flusher](w.inner) && !can[interface{ FlushError() error }](w.inner) {
		return http.ErrNotSupported // without a commit: the response can still be any
	}
	return w.flush()
}

func (w *controlled) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !can[http.Hijacker](w.inner) {
		return nil, nil, http.ErrNotSupported
	}
	return w.hijack()
}

// can tells whether http.ResponseController would find T in w.
func can[T any](w http.ResponseWriter) bool {
	for w != nil {
		if _, ok := w.(T); ok {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = u.Unwrap()
	}
	return false
}

func (w *controlled) SetReadDeadline(t time.Time) error {
	return http.NewResponseController(w.inner).SetReadDeadline(t)
}

func (w *controlled) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(w.inner).SetWriteDeadline(t)
}

func (w *controlled) EnableFullDuplex() error {
	return http.NewResponseController(w.inner).EnableFullDuplex()
}

// Unwrap ends the search: nothing further in could be asked without the commit.
func (w *controlled) Unwrap() http.ResponseWriter { return nil }
