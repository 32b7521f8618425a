package session

import (
	"net/http"
	"strconv"
	"time"
)

// VersionTransport is a Transport that also carries which version of the session
// the client has last seen. Where the store answers from copies (AtLeaster), the
// manager asks it for no older one: so users read their own writes whichever node
// they come to. CookieTransport and HeaderTransport are such. With a Transport
// that is none, a user may miss on one node, for as long as the store says, what
// they have just changed on another. With a store that is no AtLeaster these
// methods are never called.
//
// The text is short, of letters, digits and "-_.". It says which session it is of,
// so that an old one does nothing, but it is no secret and not signed: who forges
// it makes the store look at the truth, once a request.
type VersionTransport interface {
	Transport

	// Version returns what the client sent, "" if nothing usable.
	Version(r *http.Request) string

	// SetVersion tells the client to send version along with its token. It is
	// called when the session was saved before the response's header, with the
	// expiry of the session's token, and after a SetToken in the same response.
	SetVersion(w http.ResponseWriter, r *http.Request, version string, expires time.Time)

	// ClearVersion is called after ClearToken.
	ClearVersion(w http.ResponseWriter, r *http.Request)
}

// tagLen is how much of the ID ties a version to its session: no two sessions of
// one browser are alike in 48 bits.
const tagLen = 8

// seenVersion is what the client is told to send.
func seenVersion(rec *Record) string {
	return rec.ID[:min(tagLen, len(rec.ID))] + "." + strconv.FormatInt(rec.Version, 10)
}

// versionSeen is the version that the client has last seen of the session behind
// token; 0 if it does not say so in exactly our words.
func versionSeen(text, token string) int64 {
	if len(text) < tagLen+2 || text[tagLen] != '.' {
		return 0
	}
	number := text[tagLen+1:]
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil || version < 1 || number[0] < '1' || number[0] > '9' || ID(token)[:tagLen] != text[:tagLen] {
		return 0
	}
	return version
}

// versionSeen asks the request for it, where the store has a use for it.
func (m *Manager) versionSeen(r *http.Request, token string) int64 {
	if m.versions == nil || token == "" {
		return 0
	}
	return versionSeen(m.versions.Version(r), token)
}

// tellVersion puts the version that was saved into the header, or takes the
// client's away. It reports whether it did. s.mu is held.
func (q *request) tellVersion(s *Session) bool {
	v := q.m.versions
	switch {
	case v == nil:
		return false
	case s.send == sendClear:
		v.ClearVersion(q.out.inner, q.r)
	case s.saves && s.rec != nil:
		v.SetVersion(q.out.inner, q.r, seenVersion(s.rec), s.rec.keptUntil())
	default:
		return false
	}
	return true
}

// keptUntil is how long the client keeps the token: the zero time is until the
// browser closes.
func (r *Record) keptUntil() time.Time {
	if r.Persist {
		return r.Deadline
	}
	return time.Time{}
}
