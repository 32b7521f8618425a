package session_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

// claimsOf decodes a token's parts without verifying anything.
func claimsOf(t testing.TB, token string) (header, claims map[string]json.RawMessage) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q has %d parts", token, len(parts))
	}
	for i, into := range []*map[string]json.RawMessage{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// The claims are a contract with other services.
func TestJWTClaims(t *testing.T) {
	clock := newTestClock()
	s := newJWTStore(t, keyEdDSA, &session.JWTOptions{Irrevocable: true, Now: clock.Now})
	rec := testRecord(clock, "ada")
	rec.Persist = true
	header, claims := claimsOf(t, mustSave(t, s, rec))
	now := clock.Now()
	want := map[string]string{
		"iss": `"https://auth.example"`, "aud": `"shop"`, "sub": `"ada"`, "jti": `"` + rec.ID + `"`,
		"iat":       fmt.Sprint(now.Unix()),
		"exp":       fmt.Sprint(now.Unix() + 1801), // rounded up
		"auth_time": fmt.Sprint(now.Unix()),
		"values":    string(rec.Data),
		"session": fmt.Sprintf(`{"version":1,"created":%d,"seen":%d,"expires":%d,"deadline":%d,"signed_in":%d,"persist":true,"device":"Firefox on Linux"}`,
			now.UnixMilli(), now.UnixMilli(), rec.Expires.UnixMilli(), rec.Deadline.UnixMilli(), now.UnixMilli()),
	}
	if len(claims) != len(want) {
		t.Errorf("the claims are %s", claims)
	}
	for name, value := range want {
		if string(claims[name]) != value {
			t.Errorf("%s is %s, want %s", name, claims[name], value)
		}
	}
	if len(header) != 3 || string(header["alg"]) != `"EdDSA"` || string(header["typ"]) != `"session+jwt"` || len(header["kid"]) != 45 {
		t.Errorf("the header is %s", header)
	}
	_, claims = claimsOf(t, mustSave(t, s, testRecord(clock, "")))
	if claims["sub"] != nil || claims["auth_time"] != nil {
		t.Errorf("nobody is signed in, and the claims are %s", claims)
	}
}

func TestJWTOtherIssuer(t *testing.T) {
	s := newJWTStore(t, withID(keyHS256, "k1"), &session.JWTOptions{Irrevocable: true, Now: hostileClock().Now})
	v := jwtVector{Store: "HS256", Without: []string{"session", "values"}}
	rec := mustLoad(t, s, v.token(t))
	rec.Tag = nil
	issued, expires := time.Unix(hostileNow.Unix()-60, 0).UTC(), time.Unix(hostileNow.Unix()+1800, 0).UTC()
	want := session.Record{
		ID: "vector-jti-0001", User: "ada", Version: 1, Data: []byte("{}"),
		Created: issued, Seen: issued, Expires: expires, Deadline: expires,
	}
	if fmt.Sprintf("%+v", *rec) != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %+v\nwant %+v", *rec, want)
	}
}

func withID(key session.JWTKey, id string) session.JWTKey {
	key.ID = id
	return key
}

func TestJWTLifetime(t *testing.T) {
	clock := newTestClock()
	s := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Now: clock.Now})
	rec := testRecord(clock, "ada")
	rec.Expires, rec.Deadline = clock.Now().Add(12*time.Hour), clock.Now().Add(720*time.Hour)
	token := mustSave(t, s, rec)
	if got := mustLoad(t, s, token); !got.Expires.Equal(rec.Expires) || !got.Deadline.Equal(rec.Deadline) {
		t.Errorf("loads %+v", got)
	}
	_, claims := claimsOf(t, token)
	if exp := fmt.Sprint(clock.Now().Unix() + 12*3600); string(claims["exp"]) != exp {
		t.Errorf("exp is %s, want %s: no more than the lifetime after iat", claims["exp"], exp)
	}
	rec.Expires = clock.Now().Add(720 * time.Hour)
	_, err := s.Save(t.Context(), rec)
	if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), "JWTOptions.Lifetime") {
		t.Errorf("longer than any verifier accepts: got %v, want ErrConfig", err)
	}
	long := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Now: clock.Now, Lifetime: 720 * time.Hour})
	token = mustSave(t, long, rec)
	mustLoad(t, long, token)
	mustNot(t, s, token, "a service with a shorter lifetime")
}

func TestJWTUnfitRecord(t *testing.T) {
	clock := newTestClock()
	s := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Now: clock.Now})
	for why, change := range map[string]func(*session.Record){
		"no ID":                 func(r *session.Record) { r.ID = "" },
		"an ID that is no jti":  func(r *session.Record) { r.ID = "a/b" },
		"a user that no UTF-8":  func(r *session.Record) { r.User = "\xff" },
		"a device of odd bytes": func(r *session.Record) { r.Device = "\xff" },
	} {
		rec := testRecord(clock, "ada")
		change(rec)
		if token, err := s.Save(t.Context(), rec); err == nil {
			t.Errorf("%s: sealed as %s", why, token)
		}
	}
}

func TestJWTSeal(t *testing.T) {
	clock := newTestClock()
	with := func(keys ...[]byte) *session.JWTStore {
		return newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Now: clock.Now, Seal: keys})
	}
	plain, first, both, second := with(), with(testKey(1)), with(testKey(2), testKey(1)), with(testKey(2))
	rec := testRecord(clock, "ada")
	rec.Data = []byte(`{"secret":"canary"}`)
	token := mustSave(t, first, rec)
	_, claims := claimsOf(t, token)
	var sealed string
	if err := json.Unmarshal(claims["values"], &sealed); err != nil {
		t.Fatalf("values is %s", claims["values"])
	}
	if raw, _ := base64.RawURLEncoding.DecodeString(sealed); bytes.Contains(raw, []byte("canary")) || len(raw) != 12+len(rec.Data)+16 {
		t.Errorf("values is not sealed: %q", raw)
	}
	_, claims2 := claimsOf(t, mustSave(t, first, rec))
	if string(claims2["values"]) == string(claims["values"]) {
		t.Error("sealed twice, the same came out")
	}
	if got := mustLoad(t, both, token); string(got.Data) != string(rec.Data) {
		t.Errorf("an old key opens %q", got.Data)
	}
	mustNot(t, second, token, "the key that sealed has gone")
	mustNot(t, plain, token, "a service without the key, where values are an object")
	mustNot(t, first, mustSave(t, plain, rec), "signed by the right key, and not sealed")
	rec.Data = []byte("not an object")
	mustNot(t, first, mustSave(t, plain, rec), "signed by the right key, and not sealed, in data")

	// Values sealed for one session open in no other, even for who can sign.
	other := testRecord(clock, "bob")
	_, stolen := claimsOf(t, mustSave(t, first, other))
	stolen["values"] = claims["values"]
	text, _ := json.Marshal(stolen)
	all := string(text)
	v := jwtVector{Store: "HS256", ClaimsText: &all, Header: json.RawMessage(mustHeader(t, token))}
	mustNot(t, first, v.token(t), "the values of another session")
	var back map[string]json.RawMessage
	json.Unmarshal(text, &back)
	back["values"] = claims2["values"]
	back["jti"] = json.RawMessage(`"` + rec.ID + `"`)
	text, _ = json.Marshal(back)
	all = string(text)
	mustLoad(t, first, v.token(t)) // the control: with the right ID it opens
}

func mustHeader(t testing.TB, token string) string {
	t.Helper()
	h, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(h)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJWTKeyRotation(t *testing.T) {
	opts := &session.JWTOptions{Irrevocable: true}
	next := session.JWTKey{Alg: "EdDSA", Key: ed25519.NewKeyFromSeed(testKey('n'))}
	before := newJWTStore(t, keyES256, opts)
	prepared := newJWTStore(t, keyES256, opts, publicOf(next))
	during := newJWTStore(t, next, opts, publicOf(keyES256))
	after := newJWTStore(t, next, opts)
	old := mustSave(t, before, testRecord(&testClock{now: time.Now()}, "ada"))
	mustNot(t, after, old, "its key has gone")
	renewed := mustSave(t, during, mustLoad(t, during, old))
	if rec := mustLoad(t, after, renewed); rec.Version != 2 {
		t.Errorf("loads %+v", rec)
	}
	mustLoad(t, prepared, renewed)
	mustNot(t, before, renewed, "a node that does not have the new key yet")
}

// Two issuers may give their keys the same ID.
func TestJWTSameKidOfAnotherIssuer(t *testing.T) {
	opts := &session.JWTOptions{Irrevocable: true}
	a := newJWTStore(t, withID(keyEdDSA, "1"), opts)
	b := newJWTStore(t, session.JWTKey{ID: "1", Alg: "EdDSA", Key: ed25519.NewKeyFromSeed(testKey('o'))}, opts)
	mustNot(t, b, mustSave(t, a, testRecord(&testClock{now: time.Now()}, "ada")), "the other's key of our ID")
}

func TestJWTVerifyOnly(t *testing.T) {
	revoked := session.NewMemoryStore(nil)
	t.Cleanup(func() { revoked.Close() })
	clock := &testClock{now: time.Now()}
	for _, key := range jwtKeys[1:] {
		t.Run(key.Alg, func(t *testing.T) {
			issuer := newJWTStore(t, key, &session.JWTOptions{Revoked: revoked})
			verifier := newJWTStore(t, publicOf(key), &session.JWTOptions{Revoked: revoked})
			token := mustSave(t, issuer, testRecord(clock, "ada"))
			rec := mustLoad(t, verifier, token)
			for why, save := range map[string]*session.Record{
				"an update": rec, "a creation": testRecord(clock, "ada"), "a marker": markerOf(rec, clock.Now()),
			} {
				_, err := verifier.Save(t.Context(), save)
				wantErr(t, why, err, errors.ErrUnsupported)
			}
			mustLoad(t, verifier, token)
			if err := verifier.Delete(t.Context(), rec.ID); err != nil { // it needs Revoked, not a key
				t.Fatal(err)
			}
			mustNot(t, issuer, token, "ended by the service that only verifies")
		})
	}
}

// A remoteSigner is a key in a service or in hardware: nothing but a
// crypto.Signer, as it sees only hashes.
type remoteSigner struct {
	key crypto.Signer
	err error
}

func (s remoteSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s remoteSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	return s.key.Sign(r, digest, opts)
}

func TestJWTRemoteSigner(t *testing.T) {
	for _, key := range jwtKeys[1:] {
		local := newJWTStore(t, key, &session.JWTOptions{Irrevocable: true})
		remote := key
		remote.Key = remoteSigner{key: key.Key.(crypto.Signer)}
		s := newJWTStore(t, remote, &session.JWTOptions{Irrevocable: true})
		for range 10 { // an ECDSA number may need a zero in front
			mustLoad(t, local, mustSave(t, s, testRecord(&testClock{now: time.Now()}, "ada")))
		}
		remote.Key = remoteSigner{key: key.Key.(crypto.Signer), err: errBroken}
		_, err := newJWTStore(t, remote, &session.JWTOptions{Irrevocable: true}).Save(t.Context(), testRecord(&testClock{now: time.Now()}, ""))
		wantErr(t, key.Alg, err, errBroken)
	}
}

func TestJWTConfig(t *testing.T) {
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	exponent1 := &rsa.PublicKey{N: privateRSA.N, E: 1}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	var nilRSA *rsa.PrivateKey
	var nilEC *ecdsa.PublicKey
	nine := make([]session.JWTKey, 9)
	for i := range nine {
		nine[i] = session.JWTKey{Alg: "HS256", Key: testKey(byte(i))}
	}
	keys := func(keys ...session.JWTKey) []session.JWTKey { return keys }
	key := func(alg string, key any) []session.JWTKey { return keys(session.JWTKey{Alg: alg, Key: key}) }
	good := session.JWTOptions{Issuer: "i", Audience: "a", Irrevocable: true}
	type options = session.JWTOptions
	for _, tt := range []struct {
		why  string
		keys []session.JWTKey
		opts func(*options)
		mend string
	}{
		{"no keys", nil, nil, "give 1 to 8"},
		{"nine keys", nine, nil, "give 1 to 8"},
		{"no algorithm", key("", testKey(1)), nil, "HS256"},
		{"none", key("none", testKey(1)), nil, "HS256"},
		{"an algorithm in lower case", key("hs256", testKey(1)), nil, "HS256"},
		{"one that is not here", key("HS512", testKey(1)), nil, "HS256"},
		{"a short secret", key("HS256", testKey(1)[:31]), nil, "at least 32"},
		{"a secret of zeros", key("HS256", make([]byte, 64)), nil, "not random"},
		{"a pass phrase", key("HS256", []byte("correct horse battery staple, and a pony")), nil, "is text"},
		{"a public key's PEM as a secret", key("HS256", publicBytes(t, privateRSA.Public(), "PEM")), nil, "is text"},
		{"a secret as a string", key("HS256", "x"), nil, "[]byte"},
		{"a public key as a secret", key("HS256", privateEd25519.Public()), nil, "[]byte"},
		{"a secret as a public key", key("EdDSA", testKey(1)), nil, "does not take"},
		{"nil", key("EdDSA", nil), nil, "does not take"},
		{"a nil pointer", key("RS256", nilRSA), nil, "nil"},
		{"a nil public key", key("ES256", nilEC), nil, "P-256"},
		{"an RSA key for ES256", key("ES256", privateRSA), nil, "RS256 or PS256"},
		{"an EC key for RS256", key("RS256", privateES256), nil, "ES256"},
		{"an Ed25519 key for RS256", key("RS256", privateEd25519), nil, "EdDSA"},
		{"an RSA key of 1024 bits", key("RS256", weak), nil, "2048"},
		{"an RSA key under which anybody can sign", key("RS256", exponent1), nil, "exponent"},
		{"another curve", key("ES256", p384), nil, "P-256"},
		{"a short Ed25519 key", key("EdDSA", privateEd25519[:10]), nil, "64 bytes"},
		{"a short Ed25519 public key", key("EdDSA", ed25519.PublicKey("short")), nil, "32 bytes"},
		{"an Ed25519 key of small order", key("EdDSA", ed25519.PublicKey("\x01"+strings.Repeat("\x00", 31))), nil, "anybody"},
		{"an ID with a slash", keys(withID(keyHS256, "a/b")), nil, "letters"},
		{"an ID of 65", keys(withID(keyHS256, strings.Repeat("a", 65))), nil, "letters"},
		{"two keys of one ID", keys(withID(keyES256, "1"), withID(keyEdDSA, "1")), nil, "its own"},
		{"one key twice", keys(keyEdDSA, publicOf(keyEdDSA)), nil, "same"},
		{"one key under two IDs", keys(withID(keyEdDSA, "1"), withID(keyEdDSA, "2")), nil, "same"},
		{"one key for two algorithms", keys(keyRS256, keyPS256), nil, "same"},
		{"secrets and public keys", keys(keyHS256, keyEdDSA), nil, "two stores"},
		{"no issuer", keys(keyHS256), func(o *options) { o.Issuer = "" }, "Issuer"},
		{"no audience", keys(keyHS256), func(o *options) { o.Audience = "" }, "Audience"},
		{"a negative lifetime", keys(keyHS256), func(o *options) { o.Lifetime = -1 }, "Lifetime"},
		{"no word on signing out", keys(keyHS256), func(o *options) { o.Irrevocable = false }, "Revoked"},
		{"a short key to seal", keys(keyHS256), func(o *options) { o.Seal = [][]byte{testKey(1)[:8]} }, "Seal"},
		{"the key that signs seals too", keys(keyHS256), func(o *options) { o.Seal = [][]byte{testKey('h')} }, "Seal"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			opts := good
			if tt.opts != nil {
				tt.opts(&opts)
			}
			_, err := session.NewJWTStore(tt.keys, &opts)
			if !errors.Is(err, session.ErrConfig) || !strings.Contains(fmt.Sprint(err), tt.mend) {
				t.Errorf("got %v, want ErrConfig with %q", err, tt.mend)
			}
		})
	}
	if _, err := session.NewJWTStore(keys(keyHS256), nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("no options: got %v, want ErrConfig", err)
	}
}

// Under each key that is refused as of small order, a signature that nobody
// made verifies: that of the point 0 with S = 0, for one of a few messages.
func TestSmallOrderKeysAreForgeable(t *testing.T) {
	forged := append([]byte{1}, make([]byte, 63)...)
	for _, y := range session.SmallOrderY {
		works := false
		for n := range 200 {
			works = works || ed25519.Verify(ed25519.PublicKey(y), []byte(fmt.Sprint("message ", n)), forged)
		}
		if !works {
			t.Errorf("%x: no forgery was found, so it is listed wrongly", y)
		}
		for _, sign := range []byte{0, 0x80} {
			key := []byte(y)
			key[31] |= sign
			_, err := session.NewJWTStore([]session.JWTKey{{Alg: "EdDSA", Key: ed25519.PublicKey(key)}}, &session.JWTOptions{Issuer: "i", Audience: "a", Irrevocable: true})
			wantErr(t, hex.EncodeToString(key), err, session.ErrConfig)
		}
	}
}

// The example of RFC 7638, 3.1, but for its algorithm, and that of RFC 8037, A.3.
func TestJWTThumbprint(t *testing.T) {
	n, _ := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	x, _ := base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	s := newJWTStore(t, session.JWTKey{Alg: "RS256", Key: &rsa.PublicKey{N: bigInt(n), E: 65537}}, &session.JWTOptions{Irrevocable: true},
		session.JWTKey{Alg: "EdDSA", Key: ed25519.PublicKey(x)})
	body := getJWKS(t, s).Body.String()
	for _, want := range []string{"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"} {
		if !strings.Contains(body, `"kid":"`+want+`"`) {
			t.Errorf("no key has the ID %s: %s", want, body)
		}
	}
}

func getJWKS(t testing.TB, s *session.JWTStore) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	s.JWKS().ServeHTTP(w, httptest.NewRequest("GET", "/jwks.json", nil))
	return w
}

func TestJWKS(t *testing.T) {
	opts := &session.JWTOptions{Irrevocable: true}
	s := newJWTStore(t, keyEdDSA, opts, keyES256, publicOf(keyRS256))
	w := getJWKS(t, s)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/jwk-set+json" || w.Header().Get("Cache-Control") != "public, max-age=300" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 3 {
		t.Fatalf("%s: %v", w.Body, err)
	}
	public := map[string]string{"OKP": "alg crv kid kty use x", "EC": "alg crv kid kty use x y", "RSA": "alg e kid kty n use"}
	for _, key := range set.Keys {
		names, want := "", public[key["kty"]]
		for _, name := range strings.Fields(want) {
			if key[name] != "" {
				names += " " + name
			}
		}
		if want == "" || strings.TrimSpace(names) != want || len(key) != len(strings.Fields(want)) || key["use"] != "sig" {
			t.Errorf("a key of %v", key)
		}
	}
	for _, secret := range []*session.JWTStore{newJWTStore(t, keyHS256, opts)} {
		if body := getJWKS(t, secret).Body.String(); body != `{"keys":[]}` {
			t.Errorf("of a secret key: %s", body)
		}
	}
	for method, want := range map[string]int{"HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405} {
		w := httptest.NewRecorder()
		s.JWKS().ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		if w.Code != want || want == 405 && w.Header().Get("Allow") != "GET, HEAD" || method == "HEAD" && w.Body.Len() > 0 {
			t.Errorf("%s: %d %v %q", method, w.Code, w.Header(), w.Body)
		}
	}
}

func TestJWTForgedIsCheap(t *testing.T) {
	s := newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true})
	header, _, _ := strings.Cut(mustSave(t, s, testRecord(&testClock{now: time.Now()}, "")), ".")
	for why, token := range map[string]string{
		"1 MB of dots":          strings.Repeat(".", 1<<20),
		"8 KiB of dots":         strings.Repeat(".", 8<<10),
		"1 MB of claims":        header + "." + strings.Repeat("A", 1<<20) + ".AAAA",
		"8 KiB of claims":       header + "." + strings.Repeat("A", 7<<10) + ".AAAA",
		"8 KiB of header":       strings.Repeat("e30A", 2000) + ".e30.AAAA",
		"a header nested deep":  base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(`{"a":`, 1000))) + ".e30.AAAA",
		"a header of names":     base64.RawURLEncoding.EncodeToString([]byte(manyMembers(600, "x"))) + ".e30.AAAA",
		"8 KiB of a signature":  header + ".e30." + strings.Repeat("A", 7<<10),
		"a signature of a line": header + ".e30.\n",
	} {
		mustNot(t, s, token, why)
		if n := bytesPerRun(func() { s.Load(context.Background(), token) }); n > 64<<10 {
			t.Errorf("%s: %d bytes allocated", why, n)
		}
	}
}

// A token that one kind of store made is nothing to another: same bytes of
// key, other purpose.
func TestClientTokensDoNotCross(t *testing.T) {
	secret := testKey(1)
	opts := &session.JWTOptions{Issuer: testIssuer, Audience: testAudience, Irrevocable: true}
	hs, err := session.NewJWTStore([]session.JWTKey{{Alg: "HS256", Key: secret}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	sealing, other := *opts, *opts
	sealing.Seal, other.Audience = [][]byte{secret}, "billing"
	sealed, err := session.NewJWTStore([]session.JWTKey{keyEdDSA}, &sealing)
	if err != nil {
		t.Fatal(err)
	}
	billing, err := session.NewJWTStore([]session.JWTKey{{Alg: "HS256", Key: secret}}, &other)
	if err != nil {
		t.Fatal(err)
	}
	stores := map[string]session.Store{
		"cookie":       newCookieStore(t, &session.CookieOptions{Irrevocable: true}, secret),
		"other cookie": newCookieStore(t, &session.CookieOptions{Irrevocable: true, Name: "other"}, secret),
		"HS256":        hs, "sealed": sealed, "other audience": billing,
		"memory": session.NewMemoryStore(nil),
	}
	for from, s := range stores {
		rec := testRecord(&testClock{now: time.Now()}, "ada")
		token := mustSave(t, s, rec)
		for to, s := range stores {
			if from == to && from != "memory" {
				mustLoad(t, s, token)
			} else {
				mustNot(t, s, token, from+" to "+to)
			}
		}
	}
}

func FuzzJWT(f *testing.F) {
	s := newJWTStore(f, withID(keyHS256, "k1"), &session.JWTOptions{Irrevocable: true, Now: hostileClock().Now})
	f.Add("..")
	f.Add("e30.e30.AAAA")
	f.Add(mustSave(f, s, testRecord(hostileClock(), "ada")))
	f.Fuzz(func(t *testing.T, token string) {
		rec, err := s.Load(t.Context(), token)
		if err != session.ErrNotFound && (err != nil || rec.User != "ada") {
			t.Fatalf("%q loads %v, %v", token, rec, err)
		}
	})
}

// FuzzJWTClaims is about what only a holder of the key can send: whatever
// claims are signed, what comes of them is a session within the rules or none.
func FuzzJWTClaims(f *testing.F) {
	s := newJWTStore(f, withID(keyHS256, "k1"), &session.JWTOptions{Irrevocable: true, Now: hostileClock().Now})
	good := jwtVector{Store: "HS256"}
	f.Add(good.claims())
	f.Add(`{"iss":"https://auth.example","aud":["shop"],"exp":1795343000,"iat":1795342272,"jti":"a"}`)
	jti := regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	f.Fuzz(func(t *testing.T, claims string) {
		v := jwtVector{Store: "HS256", ClaimsText: &claims}
		rec, err := s.Load(t.Context(), v.token(t))
		if err == session.ErrNotFound {
			return
		}
		switch {
		case err != nil:
			t.Fatal(err)
		case !json.Valid([]byte(claims)) && !strings.Contains(claims, "<<"):
			t.Fatalf("%q loads", claims)
		case !jti.MatchString(rec.ID) || rec.Version < 1 || rec.Expired(hostileNow) || rec.Expires.After(hostileNow.Add(12*time.Hour+2*time.Minute)):
			t.Fatalf("%q loads %+v", claims, rec)
		}
	})
}
