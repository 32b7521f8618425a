package session

import (
	"cmp"
	"context"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// JWTOptions configure a JWTStore.
type JWTOptions struct {
	// Issuer and Audience are the tokens' iss and aud. Both are required, and
	// compared exactly.
	Issuer, Audience string

	// Lifetime is the longest that a token may live, exp − iat. If 0, it is
	// 12 hours, as in Options; a manager's PersistLifetime needs as much.
	// Every service that verifies the tokens has the same.
	Lifetime time.Duration

	// Seal are keys of at least 32 random bytes under which the values are
	// encrypted inside the token: the first seals, all open. With none,
	// whoever sees the token can read the values.
	Seal [][]byte

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

// JWTStore keeps the whole session with the client, in a signed JSON Web Token
// that other services can verify (see JWKS), and read unless Seal is set.
//
// The header is {"alg":…,"typ":"session+jwt","kid":…}. The claims are iss,
// aud, exp, iat, jti (the session's ID), sub (the user) and auth_time (when
// the user signed in) of a session that is signed in, and two of our own:
//
//	"values"   the values: a JSON object; with Seal a string that is AES-256-GCM
//	           in base64url
//	"session"  {"version", "created", "seen", "expires", "deadline",
//	           "signed_in", "persist", "device", "generation"}, times in
//	           milliseconds since 1970, 0 for none; another issuer may leave
//	           out each of them, or the claim
//
// Data that is not a JSON object is in the claim "data" in place of "values",
// in base64url.
//
// # Configuration
//
// The first key signs, all verify. If the first is a public key, the store
// only verifies: its Save is errors.ErrUnsupported. HS256 keys and public-key
// ones do not mix, for who can verify with HS256 can sign too. Issuer,
// Audience, and either Revoked or Irrevocable are set. A token of more than 8
// KiB is ErrTooLarge; a transport carries less.
//
// # Guarantees
//
// Only a token with exactly this header, signed by the key that it names with
// that key's one algorithm, is decoded at all. With Revoked, what Delete,
// DeleteUser or a Replaced marker ended stays ended, copies too, and a Save
// still under way does not bring it back. A service that verifies the token
// without asking Revoked does not know of it.
//
// What no client-side store can do: order two responses, so the last one that
// the browser receives wins, and a change in the other is lost; stop a client
// from going back to an older token of a session that is live; list a user's
// sessions, or count those that DeleteUser ended.
//
// # Expiry
//
// exp is Expires rounded up to the second; this store goes by the millisecond.
// A Save that asks for more than Lifetime is ErrConfig (what exceeds it by less
// than a minute is cut: clocks differ), for no service would
// accept the token.
//
// # Failure
//
// Load asks Revoked once, for a signed-in session twice at the same time. If
// Revoked fails, so do Load and Save: it is never taken for "not revoked". An
// Irrevocable store needs nothing but its keys; only a signer that is a remote
// service can fail.
type JWTStore struct {
	keys     []*jwtKey // the first signs
	byID     map[string]*jwtKey
	issuer   string
	audience string
	seals    []cipher.AEAD // the first seals
	revoked  *revocations
	jwks     []byte
}

const jwtLifetime = 12 * time.Hour // the default

// NewJWTStore returns a store that signs with the first key and verifies with
// any, at most 8. What is wrong is ErrConfig.
func NewJWTStore(keys []JWTKey, opts *JWTOptions) (*JWTStore, error) {
	if opts == nil {
		opts = &JWTOptions{}
	}
	checked, err := newJWTKeys(keys)
	if err != nil {
		return nil, configError("jwt: %w", err)
	}
	for name, v := range map[string]string{"Issuer": opts.Issuer, "Audience": opts.Audience} {
		if v == "" || !utf8.ValidString(v) {
			return nil, configError("jwt: %s is empty or not UTF-8; name who issues the tokens (Issuer), and for whom (Audience)", name)
		}
	}
	life := cmp.Or(opts.Lifetime, jwtLifetime)
	if life < time.Second {
		return nil, configError("jwt: Lifetime is %v; it takes at least a second, or 0 for %v", life, jwtLifetime)
	}
	revoked, err := newRevocations("jwt", opts.Revoked, opts.Irrevocable, life, opts.Now)
	if err != nil {
		return nil, err
	}
	s := &JWTStore{keys: checked, byID: map[string]*jwtKey{}, issuer: opts.Issuer, audience: opts.Audience, revoked: revoked}
	for _, k := range checked {
		s.byID[k.id] = k
	}
	if s.seals, err = newSeals(opts.Seal, keys); err != nil {
		return nil, err
	}
	s.jwks = newJWKS(checked)
	return s, nil
}

// newSeals derives the ciphers of the values, so that their keys are good for
// nothing else.
func newSeals(seal [][]byte, keys []JWTKey) ([]cipher.AEAD, error) {
	if len(seal) == 0 {
		return nil, nil
	}
	if err := checkKeys(seal); err != nil {
		return nil, configError("jwt: Seal: %w", err)
	}
	var seals []cipher.AEAD
	for i, key := range seal {
		for _, k := range keys {
			if secret, ok := k.Key.([]byte); ok && string(secret) == string(key) {
				return nil, configError("jwt: Seal: key %d signs too; use one of its own", i+1)
			}
		}
		aead, err := newSeal(key, "jwt values v1")
		if err != nil {
			return nil, fmt.Errorf("session: jwt: %w", err)
		}
		seals = append(seals, aead)
	}
	return seals, nil
}

// Load implements Store. It takes the tokens that Save makes, and those of
// another issuer with the same header and claims.
func (s *JWTStore) Load(ctx context.Context, token string) (*Record, error) {
	text := openJWT(token, s.byID)
	if text == nil {
		return nil, ErrNotFound
	}
	c, ok := s.parseJWTClaims(text)
	if !ok {
		return nil, ErrNotFound
	}
	if c.rec.Data, ok = s.openValues(&c); !ok {
		return nil, ErrNotFound
	}
	return s.revoked.loaded(ctx, c.rec, c.generation)
}

// openValues returns the Data of a token. With Seal, values that are not
// sealed are refused: the signature says who wrote them, not that nobody else
// has read them.
func (s *JWTStore) openValues(c *jwtClaims) ([]byte, bool) {
	switch {
	case c.values == nil && c.data == nil:
		return []byte("{}"), true
	case c.values != nil && c.data != nil || s.seals != nil && c.data != nil:
		return nil, false
	case s.seals == nil && c.values != nil:
		return c.values, c.values[0] == '{'
	}
	text := c.values
	if text == nil {
		text = c.data
	}
	quoted, ok := jsonString(text)
	if !ok || quoted != "" && !canonicalBase64(quoted) {
		return nil, false
	}
	raw, err := b64.DecodeString(quoted)
	if err != nil || s.seals == nil {
		return raw, err == nil
	}
	for _, aead := range s.seals {
		if data, err := aead.Open(nil, nil, raw, s.sealFor(c.rec.ID)); err == nil {
			return data, true
		}
	}
	return nil, false
}

// sealFor is what sealed values are bound to: they open in no other session,
// and for no other issuer or audience.
func (s *JWTStore) sealFor(id string) []byte { return boundTo(s.issuer, s.audience, id) }

// Save implements Store: it returns the new token, or "" for a Replaced
// marker. A store whose first key is public cannot save: errors.ErrUnsupported.
func (s *JWTStore) Save(ctx context.Context, rec *Record) (string, error) {
	now := s.revoked.now() // before Revoked is asked
	key := s.keys[0]
	if !key.signs() {
		return "", errUnsupported("save: its first key only verifies")
	}
	if rec.Replaced {
		return "", s.revoked.saveMarker(ctx, rec)
	}
	generation, err := s.revoked.admit(ctx, rec)
	if err != nil {
		return "", err
	}
	text := []byte(key.header)
	text = append(text, '.')
	claims, err := s.appendClaims(nil, rec, generation, now)
	if err != nil {
		return "", err
	}
	text = b64.AppendEncode(text, claims)
	sig, err := key.sign(string(text))
	if err != nil {
		return "", fmt.Errorf("session: jwt: sign: %w", err)
	}
	text = append(text, '.')
	text = b64.AppendEncode(text, sig)
	if len(text) > maxToken {
		return "", tooLarge("jwt", len(text))
	}
	return string(text), nil
}

// appendClaims writes the claims by hand: json.Marshal would rewrite the
// values, which pass through byte for byte.
func (s *JWTStore) appendClaims(b []byte, rec *Record, generation string, now time.Time) ([]byte, error) {
	expires := earliest(rec.Expires, rec.Deadline)
	iat := now.Unix()
	longest := iat + int64(s.revoked.life/time.Second)
	exp := expires.Unix()
	if expires.After(time.Unix(exp, 0)) {
		exp++
	}
	switch {
	case expires.Sub(now) > s.revoked.life+clockSkew:
		return nil, configError("jwt: a session that lives for %v cannot be saved, a token lives for %v; set JWTOptions.Lifetime (lifetime=… in a URL) to the manager's longest lifetime",
			expires.Sub(now).Round(time.Second), s.revoked.life)
	case exp > longest:
		exp = longest // by the rounding, or a clock that moved
	}
	if err := checkTimes(rec); err != nil {
		return nil, fmt.Errorf("session: jwt: %w", err)
	}
	if !jwtIDFits(rec.ID) || !utf8.ValidString(rec.User) || !utf8.ValidString(rec.Device) {
		return nil, fmt.Errorf("session: jwt: the ID of a record is 1 to 64 letters, digits, - and _, and User and Device are UTF-8")
	}
	b = append(b, '{')
	b = appendString(b, `"iss":`, s.issuer)
	b = appendString(b, `,"aud":`, s.audience)
	if rec.User != "" {
		b = appendString(b, `,"sub":`, rec.User)
	}
	b = appendInt(b, `,"exp":`, exp)
	b = appendInt(b, `,"iat":`, iat)
	b = appendString(b, `,"jti":`, rec.ID)
	if !rec.SignedIn.IsZero() {
		b = appendInt(b, `,"auth_time":`, rec.SignedIn.Unix())
	}
	b = s.appendValues(b, rec)
	b = appendInt(b, `,"session":{"version":`, rec.Version+1)
	b = appendInt(b, `,"created":`, milli(rec.Created))
	b = appendInt(b, `,"seen":`, milli(rec.Seen))
	b = appendInt(b, `,"expires":`, milli(expires))
	b = appendInt(b, `,"deadline":`, milli(rec.Deadline))
	if !rec.SignedIn.IsZero() {
		b = appendInt(b, `,"signed_in":`, milli(rec.SignedIn))
	}
	if rec.Persist {
		b = append(b, `,"persist":true`...)
	}
	if rec.Device != "" {
		b = appendString(b, `,"device":`, rec.Device)
	}
	if generation != "" {
		b = appendString(b, `,"generation":`, generation)
	}
	return append(b, "}}"...), nil
}

func (s *JWTStore) appendValues(b []byte, rec *Record) []byte {
	if s.seals != nil {
		sealed := s.seals[0].Seal(nil, nil, rec.Data, s.sealFor(rec.ID))
		return appendString(b, `,"values":`, b64.EncodeToString(sealed))
	}
	var room [32]member
	if _, err := scanObject(rec.Data, room[:0]); err != nil || rec.Data[0] != '{' || rec.Data[len(rec.Data)-1] != '}' {
		return appendString(b, `,"data":`, b64.EncodeToString(rec.Data))
	}
	b = append(b, `,"values":`...)
	return append(b, rec.Data...)
}

func appendString(b []byte, name, s string) []byte {
	quoted, _ := json.Marshal(s) // cannot fail
	return append(append(b, name...), quoted...)
}

func appendInt(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(b, name...), n, 10)
}

// Delete implements Store: Revoked remembers that the session ended. With
// Irrevocable it does nothing.
func (s *JWTStore) Delete(ctx context.Context, id string) error {
	return s.revoked.delete(ctx, id)
}

// DeleteUser implements UserDeleter. The count is always 0: nobody knows how
// many tokens there are. With Irrevocable it is errors.ErrUnsupported.
func (s *JWTStore) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	return 0, s.revoked.deleteUser(ctx, user, keep)
}

// Close closes Revoked if Open made it.
func (s *JWTStore) Close() error { return s.revoked.close() }

// longestLife is the longest that a token can be made to live; a Save that asks
// for more fails.
func (s *JWTStore) longestLife() time.Duration { return s.revoked.life }

// JWKS serves the public keys as a JWK set (RFC 7517), for services that verify
// the tokens. An HS256 key is a secret and never in it.
func (s *JWTStore) JWKS() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		w.Header().Set("Content-Length", strconv.Itoa(len(s.jwks)))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodGet {
			_, _ = w.Write(s.jwks) // a client that went away
		}
	})
}

func newJWKS(keys []*jwtKey) []byte {
	set := struct {
		Keys []json.RawMessage `json:"keys"`
	}{Keys: []json.RawMessage{}}
	for _, k := range keys {
		if k.jwk != nil {
			set.Keys = append(set.Keys, slices.Clone(k.jwk))
		}
	}
	b, _ := json.Marshal(set) // made of strings
	return b
}
