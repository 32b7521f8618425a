package session_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/distsession/session"
)

// A cookieVector describes a token in one of four ways; with none, it is a
// good one.
type cookieVector struct {
	Name, Why, Source string

	Shape   *string          // a text around a good token; see cookieShape
	Seal    *cookieSeal      // sealed otherwise
	Record  map[string]int64 // fields of the sealed record, times in milliseconds
	Payload *string          // what is sealed, in hexadecimal

	Expect string // "none", "none, with the reason" or "session"
}

type cookieSeal struct {
	Key     byte   // another key
	Name    string // another cookie
	Encrypt *bool  // signed only
	Derived *bool  // the application's key itself
	Gob     bool   // gorilla's serializer
}

func TestHostileCookie(t *testing.T) {
	s := newCookieStore(t, &session.CookieOptions{Irrevocable: true, Now: hostileClock().Now}, testKey(1), testKey(2))
	hostileVectors(t, "cookie", func(t *testing.T, v cookieVector) {
		token := v.token(t, s)
		switch v.Expect {
		case "session":
			mustLoad(t, s, token)
		case "none":
			mustNot(t, s, token, v.Why)
		case "none, with the reason":
			_, err := s.Load(t.Context(), token)
			if !errors.Is(err, session.ErrNotFound) || err == session.ErrNotFound {
				t.Errorf("got %v, want ErrNotFound with the reason", err)
			}
		default:
			t.Fatalf("expect %q", v.Expect)
		}
	})
}

func (v *cookieVector) token(t *testing.T, s *session.CookieStore) string {
	t.Helper()
	clock := hostileClock()
	rec := testRecord(clock, "ada")
	switch {
	case v.Shape != nil:
		return cookieShape(t, mustSave(t, s, rec), *v.Shape)
	case v.Record != nil:
		// Another node's clock may be anywhere: this one takes what it gets.
		far := hostileClock()
		far.Advance(500 * 24 * time.Hour)
		for field, ms := range v.Record {
			at := time.UnixMilli(ms)
			switch field {
			case "created":
				rec.Created = at
			case "seen":
				rec.Seen = at
			case "expires":
				rec.Expires, rec.Deadline = at, time.Time{}
			case "deadline":
				rec.Deadline = at
			case "version":
				rec.Version = ms - 1
			default:
				t.Fatalf("field %q", field)
			}
		}
		if strings.HasPrefix(v.Name, "expires in 400 days") {
			rec.Created = far.Now() // or the other node would cut it
		}
		return mustSave(t, newCookieStore(t, &session.CookieOptions{Irrevocable: true, Now: far.Now}), rec)
	case v.Payload != nil:
		payload, err := hex.DecodeString(*v.Payload)
		if err != nil {
			t.Fatal(err)
		}
		return sealCookie(t, cookieSeal{}, payload)
	case v.Seal != nil:
		payload, _ := openCookieToken(t, mustSave(t, s, rec))
		return sealCookie(t, *v.Seal, payload)
	}
	return mustSave(t, s, rec)
}

// cookieShape puts the sealed part of a token into a text.
func cookieShape(t *testing.T, token, shape string) string {
	t.Helper()
	sealed := token[1:]
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	random := session.NewToken()
	text := strings.NewReplacer("{t}", sealed, "{t:10}", sealed[:10], "{t10:}", sealed[10:],
		"{t:std}", "+"+base64.RawStdEncoding.EncodeToString(raw)[1:], // so that it differs in any case
		"{token}", random, "{id}", session.ID(random),
		"{jwt}", mustSave(t, newJWTStore(t, keyHS256, &session.JWTOptions{Irrevocable: true}), testRecord(&testClock{now: time.Now()}, "")),
	).Replace(expand(shape))
	return b64Of.ReplaceAllStringFunc(text, func(m string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(b64Of.FindStringSubmatch(m)[1]))
	})
}

var b64Of = regexp.MustCompile(`(?s)\{b64:(.+)\}`)

// The format of a token, written down a second time.
func cookieCodec(t *testing.T, seal cookieSeal) (*securecookie.SecureCookie, string) {
	t.Helper()
	name := "__Host-session"
	if seal.Name != "" {
		name = seal.Name
	}
	key := testKey(1)
	if seal.Key != 0 {
		key = testKey(seal.Key)
	}
	keys, err := hkdf.Key(sha256.New, key, nil, "distsession/session cookie v1 "+name, 64)
	if err != nil {
		t.Fatal(err)
	}
	if seal.Derived != nil {
		keys = append(bytes.Clone(key), key...)
	}
	block := keys[32:]
	if seal.Encrypt != nil {
		block = nil
	}
	c := securecookie.New(keys[:32], block)
	if !seal.Gob {
		c.SetSerializer(securecookie.NopEncoder{})
	}
	return c, name
}

func sealCookie(t *testing.T, seal cookieSeal, payload []byte) string {
	t.Helper()
	c, name := cookieCodec(t, seal)
	text, err := c.Encode(name, payload)
	if err != nil {
		t.Fatal(err)
	}
	return "1" + strings.TrimRight(text, "=")
}

func openCookieToken(t *testing.T, token string) ([]byte, error) {
	t.Helper()
	c, name := cookieCodec(t, cookieSeal{})
	var payload []byte
	err := c.Decode(name, token[1:]+strings.Repeat("=", -len(token[1:])&3), &payload)
	return payload, err
}

func TestCookieEveryMutation(t *testing.T) {
	s := newCookieStore(t, &session.CookieOptions{Irrevocable: true})
	rec := testRecord(&testClock{now: time.Now()}, "ada")
	for n := range 3 { // each length of the last group of four
		rec.Data = rec.Data[:4+n]
		everyMutation(t, s, mustSave(t, s, rec), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/|. \n\r\x00\xff")
	}
}

func TestCookieSealsNothingTwiceTheSame(t *testing.T) {
	s := newCookieStore(t, &session.CookieOptions{Irrevocable: true})
	rec := testRecord(&testClock{now: time.Now()}, "ada")
	seen := map[string]bool{}
	for range 10_000 {
		token := mustSave(t, s, rec)
		sealed, err := base64.RawURLEncoding.DecodeString(token[1:])
		if err != nil {
			t.Fatal(err)
		}
		iv := string(sealed[bytes.IndexByte(sealed, '|')+1:][:20]) // more than 15 bytes of base64
		if seen[iv] {
			t.Fatal("an initialization vector came twice")
		}
		seen[iv] = true
	}
}

// Nothing of a session can be read in its token.
func TestCookieHidesEverything(t *testing.T) {
	s := newCookieStore(t, &session.CookieOptions{Irrevocable: true})
	rec := testRecord(&testClock{now: time.Now()}, "ada-lovelace")
	rec.Data = []byte(`{"secret":"canary-canary"}`)
	sealed, _ := base64.RawURLEncoding.DecodeString(mustSave(t, s, rec)[1:])
	inner, _ := base64.URLEncoding.DecodeString(string(bytes.Split(sealed, []byte("|"))[1]))
	for _, text := range [][]byte{sealed, inner} {
		for _, plain := range []string{"ada-lovelace", "canary", "Firefox", rec.ID} {
			if bytes.Contains(text, []byte(plain)) {
				t.Errorf("%q can be read", plain)
			}
		}
	}
}

func TestCookieKeyRotation(t *testing.T) {
	opts := &session.CookieOptions{Irrevocable: true}
	before := newCookieStore(t, opts, testKey(1))
	during := newCookieStore(t, opts, testKey(2), testKey(1))
	after := newCookieStore(t, opts, testKey(2))
	old := mustSave(t, before, testRecord(&testClock{now: time.Now()}, "ada"))
	mustNot(t, after, old, "its key has gone")
	renewed := mustSave(t, during, mustLoad(t, during, old))
	if rec := mustLoad(t, after, renewed); rec.Version != 2 || rec.User != "ada" {
		t.Errorf("after the rotation it loads %+v", rec)
	}
	mustNot(t, before, renewed, "a node that does not have the new key yet")
}

func TestCookieConfig(t *testing.T) {
	good := testKey(1)
	hexText := []byte(hex.EncodeToString(good))
	nine := make([][]byte, 9)
	for i := range nine {
		nine[i] = testKey(byte(i))
	}
	for _, tt := range []struct {
		why    string
		keys   [][]byte
		name   string
		revoke bool
		mend   string
	}{
		{"no keys", nil, "", true, "give 1 to 8"},
		{"more keys than a forged token should cost", nine, "", true, "give 1 to 8"},
		{"nil", [][]byte{nil}, "", true, "at least 32"},
		{"empty", [][]byte{{}}, "", true, "at least 32"},
		{"31 bytes", [][]byte{good[:31]}, "", true, "at least 32"},
		{"the second is short", [][]byte{good, good[:16]}, "", true, "key 2"},
		{"zeros", [][]byte{make([]byte, 32)}, "", true, "not random"},
		{"a word, repeated", [][]byte{bytes.Repeat([]byte("changeme"), 8)}, "", true, "not random"},
		{"a pass phrase", [][]byte{[]byte("correct horse battery staple, and a pony")}, "", true, "is text"},
		{"hexadecimal that nobody decoded", [][]byte{hexText}, "", true, "is text"},
		{"base64 that nobody decoded", [][]byte{[]byte(base64.StdEncoding.EncodeToString(good))}, "", true, "is text"},
		{"the same twice", [][]byte{good, good}, "", true, "given twice"},
		{"a name with a space", [][]byte{good}, "my session", true, "cookie name"},
		{"a name with securecookie's separator", [][]byte{good}, "a|b", true, "cookie name"},
		{"a name with a semicolon", [][]byte{good}, "a;b", true, "cookie name"},
		{"a name with a control character", [][]byte{good}, "a\x00b", true, "cookie name"},
		{"a name of 65", [][]byte{good}, strings.Repeat("a", 65), true, "cookie name"},
		{"no word on signing out", [][]byte{good}, "", false, "Revoked"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			_, err := session.NewCookieStore(tt.keys, &session.CookieOptions{Name: tt.name, Irrevocable: tt.revoke})
			if !errors.Is(err, session.ErrConfig) || !strings.Contains(fmt.Sprint(err), tt.mend) {
				t.Errorf("got %v, want ErrConfig with %q", err, tt.mend)
			}
			for _, key := range tt.keys {
				if len(key) > 8 && strings.Contains(fmt.Sprint(err), string(key)) {
					t.Errorf("the message shows a key: %v", err)
				}
			}
		})
	}
}

// Whatever is sent costs no more than its text.
func TestCookieForgedIsCheap(t *testing.T) {
	s := newCookieStore(t, &session.CookieOptions{Irrevocable: true}, testKey(1), testKey(2))
	for why, token := range map[string]string{
		"1 MB of letters": "1" + strings.Repeat("A", 1<<20),
		"1 MB of bars":    "1" + strings.Repeat("|", 1<<20),
		"8 KiB of base64": "1" + strings.Repeat("A", 8<<10-4),
	} {
		if n := bytesPerRun(func() { s.Load(t.Context(), token) }); n > 64<<10 {
			t.Errorf("%s: %d bytes allocated", why, n)
		}
	}
}

func FuzzCookieToken(f *testing.F) {
	s, err := session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Irrevocable: true, Now: hostileClock().Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("1")
	f.Add("1AAAA")
	f.Add(mustSave(f, s, testRecord(hostileClock(), "ada")))
	f.Fuzz(func(t *testing.T, token string) {
		rec, err := s.Load(t.Context(), token)
		if err != session.ErrNotFound && (err != nil || rec.User != "ada") {
			t.Fatalf("%q loads %v, %v", token, rec, err)
		}
	})
}

// FuzzCookiePayload is about what only a holder of the key can send: what is
// sealed is read without a panic, and reads the same when it is sealed again.
func FuzzCookiePayload(f *testing.F) {
	f.Add([]byte{0})
	for _, user := range []string{"", "ada"} {
		payload, err := session.AppendCookiePayload(testRecord(hostileClock(), user), "generation")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		rec, generation, err := session.ParseCookiePayload(payload)
		if err != nil {
			return
		}
		again, err := session.AppendCookiePayload(rec, generation)
		if err != nil {
			t.Fatal(err)
		}
		rec2, generation2, err := session.ParseCookiePayload(again)
		if err != nil || generation2 != generation || fmt.Sprintf("%+v", *rec2) != fmt.Sprintf("%+v", *rec) {
			t.Fatalf("%+v, then %+v, %v", rec, rec2, err)
		}
	})
}
