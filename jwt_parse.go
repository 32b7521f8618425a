package session

import (
	"bytes"
	"strings"
	"time"
)

// golang-jwt's parser decodes the claims before it verifies (a forged token of
// 1.3 MB costs 46 MB), and lets pass: crit, b64 and zip in the header, names
// that stand twice or differ in case, line breaks inside the token, a missing
// exp. So this file takes the token apart, in an order in which nothing is
// decoded that was not checked before, and uses golang-jwt for the signature.

const (
	jwtType = "session+jwt" // RFC 8725, 3.11: no token for another purpose passes

	maxSeconds = maxMilli / 1000

	// maxJWTHeader bounds a header, which nobody has signed yet. Ours has 144
	// characters at most.
	maxJWTHeader = 512
)

// openJWT returns the claims of a token that one of the keys signed, nil for
// any other text.
func openJWT(token string, keys map[string]*jwtKey) []byte {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return nil
	}
	for _, c := range []byte(token) {
		if base64Value(c) < 0 && c != '.' { // RFC 8725bis, 3.14
			return nil
		}
	}
	header, rest, _ := strings.Cut(token, ".")
	claims, signature, _ := strings.Cut(rest, ".")
	key := jwtHeaderKey(header, keys)
	if key == nil || claims == "" || signature == "" {
		return nil
	}
	sig, err := b64.DecodeString(signature)
	if err != nil || key.method.Verify(token[:len(header)+1+len(claims)], sig, key.verify) != nil {
		return nil
	}
	text, err := b64.DecodeString(claims)
	if err != nil {
		return nil
	}
	return text
}

// jwtHeaderKey returns the key that a token's first part names. The header has
// alg, typ and kid and nothing else: what is not understood must not be
// passed over (RFC 7515, 4.1.11), and no key comes from the token.
func jwtHeaderKey(header string, keys map[string]*jwtKey) *jwtKey {
	if len(header) > maxJWTHeader {
		return nil
	}
	text, err := b64.DecodeString(header)
	if err != nil {
		return nil
	}
	var room [4]member
	members, err := scanObject(text, room[:0])
	if err != nil || len(members) != 3 {
		return nil
	}
	kid, ok := jsonString(lookup(members, "kid"))
	key := keys[kid]
	if !ok || key == nil {
		return nil
	}
	alg, ok := jsonString(lookup(members, "alg"))
	if !ok || alg != key.alg {
		return nil
	}
	if typ, ok := jsonString(lookup(members, "typ")); !ok || typ != jwtType {
		return nil
	}
	return key
}

// jwtClaims are the claims of a token, checked as far as that goes without
// the values' key.
type jwtClaims struct {
	rec        *Record // without Data
	generation string
	values     []byte // the claim "values", nil if there is none
	data       []byte // the claim "data", nil if there is none
}

// parseJWTClaims reads claims that were signed. Whoever issued them, every one
// that the registered names give a meaning to is checked; others are ignored.
func (s *JWTStore) parseJWTClaims(text []byte) (c jwtClaims, ok bool) {
	var room [16]member
	members, err := scanObjectDepth(text, room[:0], maxJSONDepth+1) // the values are one level down
	if err != nil {
		return c, false
	}
	iss, issOK := jsonString(lookup(members, "iss"))
	aud, audOK := jsonAudience(lookup(members, "aud"))
	jti, jtiOK := jsonString(lookup(members, "jti"))
	exp, expOK := jsonInt(lookup(members, "exp"), maxSeconds)
	iat, iatOK := jsonInt(lookup(members, "iat"), maxSeconds)
	if !issOK || !audOK || !jtiOK || !expOK || !iatOK ||
		iss != s.issuer || aud != s.audience || !jwtIDFits(jti) {
		return c, false
	}
	now := s.revoked.now()
	issued, expires := time.Unix(iat, 0).UTC(), time.Unix(exp, 0).UTC()
	latest := now.Add(clockSkew)
	if !now.Before(expires) || issued.After(latest) || expires.Sub(issued) > s.revoked.life {
		return c, false
	}
	if v := lookup(members, "nbf"); v != nil {
		if nbf, ok := jsonInt(v, maxSeconds); !ok || time.Unix(nbf, 0).After(latest) {
			return c, false
		}
	}
	rec := &Record{ID: jti, Version: 1, Created: issued, Seen: issued, Expires: expires, Deadline: expires}
	c = jwtClaims{rec: rec, values: lookup(members, "values"), data: lookup(members, "data")}
	if v := lookup(members, "sub"); v != nil {
		if rec.User, ok = jsonString(v); !ok || rec.User == "" {
			return c, false
		}
	}
	if v := lookup(members, "auth_time"); v != nil {
		at, ok := jsonInt(v, maxSeconds)
		if !ok {
			return c, false
		}
		rec.SignedIn = time.Unix(at, 0).UTC()
	}
	if v := lookup(members, "session"); v != nil && !c.parseSession(v) {
		return c, false
	}
	// The claim "session" has milliseconds where exp was rounded up, or cut
	// to the lifetime; beyond that exp is right.
	if rec.Expires.Sub(expires) >= time.Second {
		rec.Expires = expires
	}
	return c, true
}

// parseSession reads the claim "session", which holds what has no registered
// name. A token of another issuer need not have it.
func (c *jwtClaims) parseSession(text []byte) bool {
	var room [16]member
	members, err := scanObject(text, room[:0])
	if err != nil {
		return false
	}
	rec := c.rec
	for _, m := range members {
		ok := true
		switch string(m.name) {
		case "version":
			rec.Version, ok = jsonInt(m.value, 1<<53)
			ok = ok && rec.Version > 0
		case "created":
			rec.Created, ok = jsonMilli(m.value)
		case "seen":
			rec.Seen, ok = jsonMilli(m.value)
		case "expires":
			rec.Expires, ok = jsonMilli(m.value)
		case "deadline":
			rec.Deadline, ok = jsonMilli(m.value)
		case "signed_in":
			rec.SignedIn, ok = jsonMilli(m.value)
		case "persist":
			rec.Persist = string(m.value) == "true"
			ok = rec.Persist || string(m.value) == "false"
		case "device":
			rec.Device, ok = jsonString(m.value)
		case "generation":
			c.generation, ok = jsonString(m.value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// jsonString decodes a value that must be a string.
func jsonString(value []byte) (string, bool) {
	s, ok := unquote(value)
	return string(s), ok
}

// jsonAudience decodes a string or an array of one string (RFC 7519, 4.1.3).
func jsonAudience(value []byte) (string, bool) {
	if len(value) > 2 && value[0] == '[' {
		value = bytes.Trim(value[1:len(value)-1], " \t\r\n")
	}
	return jsonString(value)
}

// jsonInt decodes a whole number from 0 to limit: digits, no fraction, no
// exponent.
func jsonInt(value []byte, limit int64) (int64, bool) {
	if len(value) == 0 || len(value) > 16 {
		return 0, false
	}
	var n int64
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= limit
}

func jsonMilli(value []byte) (time.Time, bool) {
	ms, ok := jsonInt(value, maxMilli)
	return fromMilli(ms), ok
}
