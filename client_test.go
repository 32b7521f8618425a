package session_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// What the tests of the client-side stores share.

// testKey returns the n-th of some fixed symmetric keys.
func testKey(n byte) []byte {
	sum := sha256.Sum256([]byte{'k', 'e', 'y', n})
	return sum[:]
}

// Keys that are fixed only within a run.
var (
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { key, _ := rsa.GenerateKey(rand.Reader, 2048); return key })

	privateES256, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	privateRSA, _   = rsa.GenerateKey(rand.Reader, 2048)
	privateEd25519  = ed25519.NewKeyFromSeed(testKey('e'))

	keyHS256 = session.JWTKey{Alg: "HS256", Key: testKey('h')}
	keyES256 = session.JWTKey{Alg: "ES256", Key: privateES256}
	keyRS256 = session.JWTKey{Alg: "RS256", Key: privateRSA}
	keyPS256 = session.JWTKey{Alg: "PS256", Key: privateRSA}
	keyEdDSA = session.JWTKey{Alg: "EdDSA", Key: privateEd25519}

	jwtKeys = []session.JWTKey{keyHS256, keyES256, keyRS256, keyPS256, keyEdDSA}
)

// publicOf is the part of a key that only verifies.
func publicOf(key session.JWTKey) session.JWTKey {
	key.Key = key.Key.(crypto.Signer).Public()
	return key
}

const (
	testIssuer   = "https://auth.example"
	testAudience = "shop"
)

func newCookieStore(t testing.TB, opts *session.CookieOptions, keys ...[]byte) *session.CookieStore {
	t.Helper()
	if len(keys) == 0 {
		keys = [][]byte{testKey(1)}
	}
	s, err := session.NewCookieStore(keys, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newJWTStore(t testing.TB, key session.JWTKey, opts *session.JWTOptions, more ...session.JWTKey) *session.JWTStore {
	t.Helper()
	o := *opts
	o.Issuer, o.Audience = testIssuer, testAudience
	s, err := session.NewJWTStore(append([]session.JWTKey{key}, more...), &o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A testClock is a clock that the test moves.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newTestClock() *testClock {
	return &testClock{now: time.Date(2026, 11, 22, 10, 11, 12, 345e6, time.UTC)}
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// testRecord is a new session, signed in if user is not "".
func testRecord(c *testClock, user string) *session.Record {
	now := c.Now()
	rec := &session.Record{
		ID: session.ID(session.NewToken()), User: user, Device: "Firefox on Linux",
		Created: now, Seen: now, Expires: now.Add(30 * time.Minute), Deadline: now.Add(12 * time.Hour),
		Data: []byte(`{"cart":[1,2,3],"html":"<b>&amp;</b>","big":9007199254740993}`),
	}
	if user != "" {
		rec.SignedIn = now
	}
	return rec
}

// markerOf is the Replaced marker that a manager saves over rec.
func markerOf(rec *session.Record, now time.Time) *session.Record {
	return &session.Record{
		ID: rec.ID, Replaced: true, Version: rec.Version, Tag: rec.Tag, Device: "successor",
		Created: rec.Created, Seen: now, Expires: now.Add(time.Minute), Deadline: rec.Deadline,
	}
}

func mustSave(t testing.TB, s session.Store, rec *session.Record) string {
	t.Helper()
	token, err := s.Save(t.Context(), rec)
	if err != nil {
		t.Fatalf("save: %v", err)
	}
	return token
}

func mustLoad(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("load: %v", err)
	}
	return rec
}

// mustNot checks that a token is no session, and says so in the one opaque way.
func mustNot(t testing.TB, s session.Store, token, why string) {
	t.Helper()
	rec, err := s.Load(context.Background(), token)
	if err != session.ErrNotFound {
		t.Errorf("%s: got %v, %v, want a bare ErrNotFound", why, rec, err)
	}
}

// clientStores are the stores that keep sessions with the client, by name.
func clientStores(t testing.TB, revoked session.Store, now func() time.Time) map[string]session.Store {
	t.Helper()
	stores := map[string]session.Store{
		"cookie": newCookieStore(t, &session.CookieOptions{Revoked: revoked, Irrevocable: revoked == nil, Now: now}),
		"jwt/sealed": newJWTStore(t, keyEdDSA, &session.JWTOptions{
			Revoked: revoked, Irrevocable: revoked == nil, Now: now, Seal: [][]byte{testKey(9)},
		}),
	}
	for _, key := range jwtKeys {
		stores["jwt/"+key.Alg] = newJWTStore(t, key, &session.JWTOptions{Revoked: revoked, Irrevocable: revoked == nil, Now: now})
	}
	return stores
}

func TestClientRoundTrip(t *testing.T) {
	clock := newTestClock()
	full := testRecord(clock, "ada")
	full.Persist, full.Version = true, 41
	anonymous := testRecord(clock, "")
	anonymous.Device, anonymous.Data = "", nil
	binary := testRecord(clock, "ünï\"<&>\u2028\x01")
	binary.Data = []byte("\x00\xff not JSON")
	deep := testRecord(clock, "a")
	deep.Data = []byte(`{"a":` + strings.Repeat("[", session.MaxJSONDepth-1) + strings.Repeat("]", session.MaxJSONDepth-1) + `}`)
	odd := testRecord(clock, "a")
	odd.ID, odd.Deadline, odd.Data = "short", time.Time{}, []byte(" {} ")

	for name, s := range clientStores(t, nil, clock.Now) {
		for i, want := range []*session.Record{full, anonymous, binary, deep, odd} {
			t.Run(fmt.Sprint(name, i), func(t *testing.T) {
				before := *want
				got := mustLoad(t, s, mustSave(t, s, want))
				if fmt.Sprint(before) != fmt.Sprint(*want) {
					t.Errorf("Save changed the record: %v", *want)
				}
				got.Tag = nil
				next := *want
				next.Version++
				if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", next) {
					t.Errorf("got  %+v\nwant %+v", *got, next)
				}
			})
		}
	}
}

// bytesPerRun is about how many bytes f allocates.
func bytesPerRun(f func()) uint64 {
	const runs = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / runs
}

func bigInt(b []byte) *big.Int { return new(big.Int).SetBytes(b) }

func TestIrrevocable(t *testing.T) {
	clock := newTestClock()
	for name, s := range clientStores(t, nil, clock.Now) {
		t.Run(name, func(t *testing.T) {
			token := mustSave(t, s, testRecord(clock, "ada"))
			rec := mustLoad(t, s, token)
			mustSave(t, s, markerOf(rec, clock.Now()))
			if err := s.Delete(t.Context(), rec.ID); err != nil {
				t.Error(err)
			}
			if n, err := session.DeleteUser(t.Context(), s, "ada", ""); n != 0 || !errors.Is(err, errors.ErrUnsupported) {
				t.Error(n, err)
			}
			mustLoad(t, s, token) // as the option's name says
			mustLoad(t, s, mustSave(t, s, rec))
			clock.Advance(30 * time.Minute)
			mustNot(t, s, token, "expired")
			_, err := s.Save(t.Context(), rec)
			wantErr(t, "a save to an expired session", err, session.ErrNotFound)
			clock.Advance(-30 * time.Minute)
		})
	}
}

func TestClientTimes(t *testing.T) {
	type change func(rec *session.Record, now time.Time)
	for _, tt := range []struct {
		why    string
		change change
		live   bool
	}{
		{"as it is", func(*session.Record, time.Time) {}, true},
		{"expires now", func(r *session.Record, now time.Time) { r.Expires = now }, false},
		{"expires in a millisecond", func(r *session.Record, now time.Time) { r.Expires = now.Add(time.Millisecond) }, true},
		{"the deadline is now", func(r *session.Record, now time.Time) { r.Deadline = now }, false},
		{"created by a clock within a minute ahead", func(r *session.Record, now time.Time) { r.Created, r.Seen = now.Add(time.Minute), now.Add(time.Minute) }, true},
		{"created more than a minute ahead", func(r *session.Record, now time.Time) { r.Created = now.Add(61 * time.Second) }, false},
		{"seen more than a minute ahead", func(r *session.Record, now time.Time) { r.Seen = now.Add(61 * time.Second) }, false},
	} {
		t.Run(tt.why, func(t *testing.T) {
			clock := newTestClock()
			for name, s := range clientStores(t, nil, clock.Now) {
				rec := testRecord(clock, "ada")
				tt.change(rec, clock.Now())
				token := mustSave(t, s, rec)
				if tt.live {
					mustLoad(t, s, token)
				} else {
					mustNot(t, s, token, name)
				}
			}
		})
	}
	t.Run("expires when its time has come", func(t *testing.T) {
		clock := newTestClock()
		for name, s := range clientStores(t, nil, clock.Now) {
			token := mustSave(t, s, testRecord(clock, "ada"))
			clock.Advance(30*time.Minute - time.Millisecond)
			mustLoad(t, s, token)
			clock.Advance(time.Millisecond)
			mustNot(t, s, token, name)
			clock.Advance(-30 * time.Minute)
		}
	})
	t.Run("outside of what a token can hold", func(t *testing.T) {
		clock := newTestClock()
		for name, s := range clientStores(t, nil, clock.Now) {
			for _, bad := range []time.Time{time.Unix(-1, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
				rec := testRecord(clock, "ada")
				rec.Seen = bad
				if token, err := s.Save(t.Context(), rec); err == nil {
					t.Errorf("%s: %v was sealed: %s", name, bad, token)
				}
			}
		}
	})
}

func TestLongestLife(t *testing.T) {
	if got := session.LongestLife(newCookieStore(t, &session.CookieOptions{Irrevocable: true})); got != 400*24*time.Hour {
		t.Errorf("a cookie lives for %v", got)
	}
	if got := session.LongestLife(newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true, Lifetime: time.Hour})); got != time.Hour {
		t.Errorf("a JWT lives for %v", got)
	}
}

func TestClientTooLarge(t *testing.T) {
	clock := newTestClock()
	for name, s := range clientStores(t, nil, clock.Now) {
		rec := testRecord(clock, "ada")
		rec.Data = []byte(`{"a":"` + strings.Repeat("x", 8<<10) + `"}`)
		_, err := s.Save(t.Context(), rec)
		if !errors.Is(err, session.ErrTooLarge) || !strings.Contains(err.Error(), "8192") {
			t.Errorf("%s: got %v, want ErrTooLarge with both sizes", name, err)
		}
	}
}
