package session

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/securecookie"
)

func init() { Register("cookie", openCookie) }

// openCookie opens cookie:?keys=env:SESSION_KEYS&revoked=…
func openCookie(ctx context.Context, u *url.URL) (Store, error) {
	if err := onlyParams(u, "revoked"); err != nil {
		return nil, err
	}
	p := NewParams(u)
	opts := &CookieOptions{Name: p.String("name", ""), Irrevocable: p.Bool("irrevocable")}
	text := p.Secret("keys")
	revoked := p.String("revoked", "")
	if err := p.Err(); err != nil {
		return nil, err
	}
	if text == nil {
		return nil, configError("cookie: keys is missing; write keys=env:NAME or keys=file:PATH, with base64 of 32 random bytes there")
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, configError("cookie: keys: %w", err)
	}
	if opts.Revoked, err = openInner(ctx, "cookie", "revoked", revoked); err != nil {
		return nil, err
	}
	s, err := NewCookieStore(keys, opts)
	if err != nil {
		_ = Close(opts.Revoked)
		return nil, err
	}
	s.revoked.owned = opts.Revoked != nil
	return s, nil
}

// CookieOptions configure a CookieStore.
type CookieOptions struct {
	// Name is the cookie that the keys are bound to: a token that was sealed
	// for one name is nothing under another. If "", it is "__Host-session".
	// Two applications that share their keys need different names.
	Name string

	// Revoked remembers the sessions and users that were signed out until the
	// last of their tokens has expired. It is a server-side store that keeps
	// what it was given (not a cache that evicts), and answers a missing
	// record with ErrNotFound itself: wrapped, it is taken for an entry that
	// cannot be read. Stores that share one share their users' sign-outs.
	Revoked Store

	// Irrevocable says, in place of Revoked, that a copied token may live
	// until it expires: SetUser, Renew and Destroy do not kill copies.
	Irrevocable bool

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// CookieStore keeps the whole session with the client, in an encrypted and
// signed token (gorilla/securecookie: AES-256 in counter mode, then
// HMAC-SHA256).
//
// # Configuration
//
// Keys are at least 32 random bytes each: the first seals, all open, so a new
// one goes to the front everywhere once every node has it at the end. Either
// Revoked or Irrevocable is set. A token of more than 8 KiB is ErrTooLarge; a
// transport carries less, about 1,900 bytes of values in one cookie.
//
// # Guarantees
//
// Nobody without a key can read, make or change a token, and one made for
// another cookie name is no session. With Revoked, what Delete, DeleteUser or
// a Replaced marker ended stays ended, copies too, and a Save still under way
// does not bring it back.
//
// What no client-side store can do: order two responses, so the last one that
// the browser receives wins, and a change in the other is lost; stop a client
// from going back to an older token of a session that is live; list a user's
// sessions, or count those that DeleteUser ended.
//
// # Expiry
//
// The times are sealed in, to the millisecond. No session lives longer than
// 400 days, which is what browsers keep a cookie (RFC 6265bis, 5.5), so Revoked
// forgets after that.
//
// # Failure
//
// Load asks Revoked once, for a signed-in session twice at the same time. If
// Revoked fails, so do Load and Save: it is never taken for "not revoked". An
// Irrevocable store needs nothing but its keys and cannot fail.
type CookieStore struct {
	name    string
	codecs  []*securecookie.SecureCookie
	revoked *revocations
}

const (
	cookieName   = "__Host-session" // the default
	cookieFormat = "1"              // the first character of a token
	cookieLife   = 400 * 24 * time.Hour

	// maxToken bounds a token before any work is done on it; servers in front
	// refuse header lines of more than 8 KiB.
	maxToken = 8 << 10
)

// NewCookieStore returns a store that seals sessions with the first key and
// opens them with any. Keys are at least 32 random bytes, at most 8 of them.
// What is wrong is ErrConfig.
func NewCookieStore(keys [][]byte, opts *CookieOptions) (*CookieStore, error) {
	if opts == nil {
		opts = &CookieOptions{}
	}
	if err := checkKeys(keys); err != nil {
		return nil, configError("cookie: %w", err)
	}
	name := cmp.Or(opts.Name, cookieName)
	if !validCookieName(name) {
		return nil, configError("cookie: Name %q is no cookie name; use up to 64 letters, digits, - and _", name)
	}
	revoked, err := newRevocations("cookie", opts.Revoked, opts.Irrevocable, cookieLife, opts.Now)
	if err != nil {
		return nil, err
	}
	s := &CookieStore{name: name, revoked: revoked}
	for _, key := range keys {
		// Keys of their own for each name and format: nothing that another
		// part of the application made with the same key opens here.
		derived, err := hkdf.Key(sha256.New, key, nil, "distsession/session cookie v"+cookieFormat+" "+name, 64)
		if err != nil {
			return nil, fmt.Errorf("session: cookie: %w", err)
		}
		codec := securecookie.New(derived[:32], derived[32:])
		codec.SetSerializer(securecookie.NopEncoder{})
		codec.MaxLength(0) // checked here, before any work
		codec.MaxAge(0)    // the times are in the payload
		s.codecs = append(s.codecs, codec)
	}
	return s, nil
}

// validCookieName tells whether name is a token (RFC 9110, 5.6.2) that
// securecookie can sign: it separates its fields with a bar.
func validCookieName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || strings.IndexByte("()<>@,;:\\\"/[]?={}|", c) >= 0 {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// Load implements Store. It never asks Revoked about a token that no key
// opens.
func (s *CookieStore) Load(ctx context.Context, token string) (*Record, error) {
	payload := s.open(token)
	if payload == nil {
		return nil, ErrNotFound
	}
	rec, generation, err := parseCookiePayload(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: cookie: sealed by this store's key, but it cannot be decoded: %w", ErrNotFound, err)
	}
	if rec.Expires.After(cookieEnd(rec, s.revoked.now().Add(clockSkew))) {
		return nil, ErrNotFound
	}
	return s.revoked.loaded(ctx, rec, generation)
}

// open returns the payload of an authentic token, nil for any other.
func (s *CookieStore) open(token string) []byte {
	text, ok := strings.CutPrefix(token, cookieFormat)
	if !ok || len(token) > maxToken || !canonicalBase64(text) {
		return nil
	}
	text += "==="[:-len(text)&3]
	for _, codec := range s.codecs {
		var payload []byte
		if codec.Decode(s.name, text, &payload) == nil {
			return payload
		}
	}
	return nil
}

// canonicalBase64 tells whether s is the one spelling of some bytes in
// base64url without padding. encoding/base64 passes over line breaks, and
// takes any value for the last character's unused bits.
func canonicalBase64(s string) bool {
	for _, c := range []byte(s) {
		if base64Value(c) < 0 {
			return false
		}
	}
	switch len(s) & 3 {
	case 0:
		return s != ""
	case 2:
		return base64Value(s[len(s)-1])&15 == 0
	case 3:
		return base64Value(s[len(s)-1])&3 == 0
	}
	return false
}

// base64Value is the six bits that a character of base64url stands for, or -1.
func base64Value(c byte) int {
	switch {
	case 'A' <= c && c <= 'Z':
		return int(c - 'A')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 26
	case '0' <= c && c <= '9':
		return int(c-'0') + 52
	case c == '-':
		return 62
	case c == '_':
		return 63
	}
	return -1
}

// Save implements Store: it returns the new token, or "" for a Replaced marker.
func (s *CookieStore) Save(ctx context.Context, rec *Record) (string, error) {
	end := cookieEnd(rec, s.revoked.now()) // before Revoked is asked
	if rec.Replaced {
		return "", s.revoked.saveMarker(ctx, rec)
	}
	generation, err := s.revoked.admit(ctx, rec)
	if err != nil {
		return "", err
	}
	sealed := *rec
	sealed.Version++
	sealed.Expires = earliest(rec.Expires, rec.Deadline, end)
	payload, err := appendCookiePayload(nil, &sealed, generation)
	if err != nil {
		return "", err
	}
	text, err := s.codecs[0].Encode(s.name, payload)
	if err != nil {
		return "", fmt.Errorf("session: cookie: %w", err)
	}
	token := cookieFormat + strings.TrimRight(text, "=")
	if len(token) > maxToken {
		return "", tooLarge("cookie", len(token))
	}
	return token, nil
}

// cookieEnd is when a session ends at the latest.
func cookieEnd(rec *Record, now time.Time) time.Time {
	return earliest(now, rec.Created).Add(cookieLife)
}

func tooLarge(kind string, size int) error {
	return fmt.Errorf("session: %s: %w: the token has %d bytes, the limit is %d", kind, ErrTooLarge, size, maxToken)
}

// earliest returns the first of some times; a zero time stands for none.
func earliest(t time.Time, others ...time.Time) time.Time {
	for _, u := range others {
		if !u.IsZero() && u.Before(t) {
			t = u
		}
	}
	return t
}

// Delete implements Store: Revoked remembers that the session ended. With
// Irrevocable it does nothing.
func (s *CookieStore) Delete(ctx context.Context, id string) error {
	return s.revoked.delete(ctx, id)
}

// DeleteUser implements UserDeleter. The count is always 0: nobody knows how
// many tokens there are. With Irrevocable it is errors.ErrUnsupported.
func (s *CookieStore) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	return 0, s.revoked.deleteUser(ctx, user, keep)
}

// Close closes Revoked if Open made it.
func (s *CookieStore) Close() error { return s.revoked.close() }

// longestLife is the longest that a session lives, whatever the manager's
// lifetimes are.
func (s *CookieStore) longestLife() time.Duration { return s.revoked.life }
