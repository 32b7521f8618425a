package session_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

func encrypt(t testing.TB, s session.Store, keys ...byte) session.Store {
	t.Helper()
	var all [][]byte
	for _, n := range keys {
		all = append(all, testKey(n))
	}
	e, err := session.Encrypted(s, all)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEncryptedHidesValues(t *testing.T) {
	plain := session.NewMemoryStore(nil)
	e := encrypt(t, plain, 1)
	rec, token := draft()
	rec.Data = []byte(`{"secret":"hunter2 hunter2 hunter2"}`)
	if _, err := e.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	stored := load(t, plain, token)
	if bytes.Contains(stored.Data, []byte("hunter2")) || bytes.Contains(stored.Data, []byte("secret")) {
		t.Errorf("the store holds %q", stored.Data)
	}
	if n := len(stored.Data) - len(rec.Data); n != 30 {
		t.Errorf("sealing costs %d bytes", n)
	}
	again := load(t, e, token)
	if _, err := e.Save(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(load(t, plain, token).Data, stored.Data) {
		t.Error("the same values are sealed to the same bytes twice")
	}
	if got := devices(t, e, "ann"); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
}

// What somebody who can write to the database may try.
func TestEncryptedOpensNothingElse(t *testing.T) {
	for _, tt := range []struct {
		name, why string
		change    func(stored, other *session.Record)
	}{
		{"another session's values", "a record that is copied under another ID", func(stored, other *session.Record) { stored.Data = other.Data }},
		{"another user", "his own session, given to somebody else", func(stored, _ *session.Record) { stored.User = "root" }},
		{"plain values", "written without a key", func(stored, _ *session.Record) { stored.Data = []byte(`{"admin":true}`) }},
		{"no values", "emptied", func(stored, _ *session.Record) { stored.Data = nil }},
		{"one bit", "damaged", func(stored, _ *session.Record) {
			stored.Data = bytes.Clone(stored.Data)
			stored.Data[len(stored.Data)-1] ^= 1
		}},
		{"another nonce", "damaged in front", func(stored, _ *session.Record) {
			stored.Data = bytes.Clone(stored.Data)
			stored.Data[2] ^= 1
		}},
		{"another format", "of a later version", func(stored, _ *session.Record) {
			stored.Data = append([]byte("e2"), stored.Data[2:]...)
		}},
		{"cut", "cut short", func(stored, _ *session.Record) { stored.Data = stored.Data[:20] }},
		{"longer", "a byte more", func(stored, _ *session.Record) { stored.Data = append(bytes.Clone(stored.Data), 0) }},
		{"a marker of it", "a Replaced marker has no values, or sealed ones", func(stored, _ *session.Record) {
			stored.Replaced, stored.User = true, ""
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain := session.NewMemoryStore(nil)
			e := encrypt(t, plain, 1)
			_, token := create(t, e)
			_, other := create(t, e)
			stored := load(t, plain, token)
			tt.change(stored, load(t, plain, other))
			if _, err := plain.Save(t.Context(), stored); err != nil {
				t.Fatal(err)
			}
			rec, err := e.Load(t.Context(), token)
			if !errors.Is(err, session.ErrNotFound) || err == session.ErrNotFound {
				t.Errorf("%s: %+v, %v; want ErrNotFound with the reason", tt.why, rec, err)
			}
			scanner, _ := session.As[session.Scanner](e)
			for rec, err := range scanner.Scan(t.Context()) {
				if err != nil || rec.ID == stored.ID {
					t.Errorf("Scan yields %+v, %v", rec, err)
				}
			}
			load(t, e, other)
		})
	}
}

func TestEncryptedKeyRotation(t *testing.T) {
	plain := session.NewMemoryStore(nil)
	_, token := create(t, encrypt(t, plain, 1))
	rotating := encrypt(t, plain, 2, 1)
	rec := load(t, rotating, token)
	newOnly := encrypt(t, plain, 2)
	if _, err := newOnly.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("with the new key alone, before a save: %v", err)
	}
	if _, err := rotating.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if got := load(t, newOnly, token); string(got.Data) != string(rec.Data) {
		t.Errorf("sealed anew: %s", got.Data)
	}
	if _, err := encrypt(t, plain, 1).Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("with the old key, after a save: %v", err)
	}
}

// Encryption begins while sessions live, by a move.
func TestEncryptedByMigrating(t *testing.T) {
	plain, inner := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	rec, token := create(t, plain)
	m := migrate(t, encrypt(t, inner, 1), plain)
	if got := load(t, m, token); string(got.Data) != string(rec.Data) {
		t.Errorf("%s", got.Data)
	}
	if sealed := load(t, inner, token); bytes.Contains(sealed.Data, rec.Data) {
		t.Errorf("it moved as it was: %s", sealed.Data)
	}
	if n := len(load(t, plain, token).Data); n != 0 {
		t.Errorf("%d bytes were left behind", n)
	}
}

// A wrapper claims no ability that its store lacks.
func TestEncryptedAbilities(t *testing.T) {
	three := struct{ session.Store }{session.NewMemoryStore(nil)} // its methods, without the abilities
	e := encrypt(t, three, 1)
	if _, ok := session.As[session.Scanner](e); ok {
		t.Error("it scans a store that cannot")
	}
	if _, ok := session.As[session.Toucher](e); ok {
		t.Error("it touches a store that cannot")
	}
	m := migrate(t, session.NewMemoryStore(nil), three)
	for name, has := range map[string]bool{
		"Toucher": is[session.Toucher](m), "Lister": is[session.Lister](m), "UserDeleter": is[session.UserDeleter](m), "Scanner": is[session.Scanner](m),
	} {
		if has {
			t.Errorf("Migrating is a %s, and one of its stores is none", name)
		}
	}
	if is[session.Leaser](m) || !is[session.Leaser](migrate(t, three, leasing{session.NewMemoryStore(nil)})) {
		t.Error("Migrating leases where neither store does, or not where one does")
	}
	if !is[session.Cleaner](m) {
		t.Error("Migrating does not clean the store that has to be")
	}
}

type leasing struct{ *session.MemoryStore }

func (leasing) Lease(context.Context, string, time.Duration) (bool, error) { return true, nil }

func is[T any](s session.Store) bool {
	_, ok := session.As[T](s)
	return ok
}

func TestEncryptedConfig(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	cookies, err := session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Irrevocable: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		store session.Store
		keys  [][]byte
	}{
		"no store":          {nil, [][]byte{testKey(1)}},
		"a nil store":       {(*session.MemoryStore)(nil), [][]byte{testKey(1)}},
		"a client-side one": {cookies, [][]byte{testKey(1)}},
		"no key":            {memory, nil},
		"a short key":       {memory, [][]byte{testKey(1)[:31]}},
		"one key twice":     {memory, [][]byte{testKey(1), testKey(1)}},
		"text":              {memory, [][]byte{[]byte(strings.Repeat("password", 4))}},
	} {
		if _, err := session.Encrypted(tt.store, tt.keys); !errors.Is(err, session.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("SESSION_KEYS", b64Key(1)+","+base64.StdEncoding.EncodeToString(testKey(2)))
	for raw, want := range map[string]error{
		"encrypted:?keys=env:SESSION_KEYS&store=memory:":               nil,
		"encrypted:?keys=env:SESSION_KEYS&store=memory:%3Fmax=10":      nil,
		"encrypted:?keys=env:SESSION_KEYS":                             session.ErrConfig,
		"encrypted:?store=memory:":                                     session.ErrConfig,
		"encrypted:?keys=env:NO_SUCH_KEYS&store=memory:":               session.ErrConfig,
		"encrypted:?keys=" + b64Key(1) + "&store=memory:":              session.ErrConfig,
		"encrypted:?keys=env:SESSION_KEYS&store=nosuch:":               session.ErrConfig,
		"encrypted:?keys=env:SESSION_KEYS&store=memory:&x=y":           session.ErrConfig,
		"encrypted://host?keys=env:SESSION_KEYS&store=memory:":         session.ErrConfig,
		"encrypted:?keys=env:SESSION_KEYS&store=redis://:a&hunter2@h/": session.ErrConfig,
	} {
		s, err := session.Open(t.Context(), raw)
		if !errors.Is(err, want) || err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), b64Key(1)[:20])) {
			t.Errorf("%s: %v", raw, err)
		}
		if err == nil {
			_, token := create(t, s)
			load(t, s, token)
			if err := session.Close(s); err != nil {
				t.Error(err)
			}
		}
	}
}

// Whatever bytes stand in the database, Load tells what they are or that they
// are nothing.
func FuzzEncrypted(f *testing.F) {
	plain := session.NewMemoryStore(nil)
	e, err := session.Encrypted(plain, [][]byte{testKey(1), testKey(2)})
	if err != nil {
		f.Fatal(err)
	}
	_, token := create(f, e)
	f.Add(load(f, plain, token).Data)
	f.Add([]byte("e1"))
	f.Add([]byte(`{"n":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, token := draft()
		rec.Data = data
		if _, err := plain.Save(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		if rec, err := e.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
			t.Fatalf("%+v, %v", rec, err)
		}
	})
}

func BenchmarkEncrypted(b *testing.B) {
	for name, s := range map[string]session.Store{
		"plain": session.NewMemoryStore(nil), "encrypted": encrypt(b, session.NewMemoryStore(nil), 1),
	} {
		_, token := create(b, s)
		b.Run("load/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Load(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("save/"+name, func(b *testing.B) {
			b.ReportAllocs()
			rec := load(b, s, token)
			for b.Loop() {
				if _, err := s.Save(b.Context(), rec); err != nil {
					b.Fatal(err)
				}
				rec.Version++
			}
		})
	}
}
