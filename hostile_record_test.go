package session_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/distsession/session"
)

// byteStore is the smallest store that keeps bytes: what a backend makes of
// EncodeRecord and DecodeRecord.
type byteStore struct {
	now func() time.Time

	mu    sync.Mutex
	texts map[string][]byte
	gets  int // what would be I/O
}

func newByteStore(now func() time.Time) *byteStore {
	if now == nil {
		now = time.Now
	}
	return &byteStore{now: now, texts: map[string][]byte{}}
}

func (s *byteStore) Load(_ context.Context, token string) (*session.Record, error) {
	if !session.WellFormed(token) {
		return nil, session.ErrNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	rec, _, err := s.get(session.ID(token))
	return rec, err
}

func (s *byteStore) get(id string) (*session.Record, session.Trail, error) {
	text, ok := s.texts[id]
	if !ok {
		return nil, "", session.ErrNotFound
	}
	rec, trail, err := session.DecodeRecord(id, text)
	if err == nil && rec.Expired(s.now()) {
		return nil, "", session.ErrNotFound
	}
	return rec, trail, err
}

func (s *byteStore) Save(_ context.Context, rec *session.Record) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, trail, err := s.get(rec.ID)
	switch {
	case rec.Version == 0 && s.texts[rec.ID] != nil && (err == nil || !errors.Is(err, session.ErrNotFound)):
		return "", session.ErrConflict
	case rec.Version > 0 && err != nil:
		return "", err
	case rec.Version > 0 && old.Version != rec.Version:
		return "", session.ErrConflict
	case rec.Version == 0:
		trail = session.NewTrail()
	}
	text, err := session.EncodeRecord(rec, trail.Next())
	if err != nil {
		return "", err
	}
	s.texts[rec.ID] = text
	return "", nil
}

func (s *byteStore) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.texts, id)
	return nil
}

func (s *byteStore) plant(token string, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts[session.ID(token)] = text
}

// recordVector is what stands in the store under a live token's ID.
type recordVector struct {
	Name, Why, Source string

	// One of these is planted.
	Text   string // the bytes, as a template over .Text and .Other, two good records
	Base64 string // the bytes
	Values string // the values of a good record, as a template
	Record *struct {
		Created, SignedIn, Seen, Expires, Deadline string // after the present
		User                                       string
		Replaced                                   bool
	}

	Want     string // "none" or "session"
	Reads    string // what /read then says of the value; a session alone
	Reported bool   // logged, and counted in Stats.Unreadable
}

func TestHostileRecords(t *testing.T) {
	all := vectors[recordVector](t, "hostile/record")
	distinctNames(t, all, func(v recordVector) (string, string) { return v.Name, v.Why })
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			store := newByteStore(nil)
			s := newSiteOver(t, store, &session.Options{})
			token, other := s.token(t, "/login?u=alice"), s.token(t, "/login?u=bob")
			token = s.token(t, "/renew", with(token))
			planted := v.plant(t, store, token, other)
			s.checkPlanted(t, &v, store, token, planted)
		})
	}
}

func (v *recordVector) plant(t *testing.T, store *byteStore, token, other string) []byte {
	good, bobs := store.texts[session.ID(token)], store.texts[session.ID(other)]
	rec, trail, err := session.DecodeRecord(session.ID(token), good)
	if err != nil {
		t.Fatal(err)
	}
	rec.Version--
	var text []byte
	switch {
	case v.Record != nil:
		now := rec.Seen
		at := func(to *time.Time, after string) {
			if after != "" {
				*to = now.Add(span(t, after))
			}
		}
		at(&rec.Created, v.Record.Created)
		at(&rec.SignedIn, v.Record.SignedIn)
		at(&rec.Seen, v.Record.Seen)
		at(&rec.Expires, v.Record.Expires)
		at(&rec.Deadline, v.Record.Deadline)
		if v.Record.User != "" {
			rec.User = v.Record.User
		}
		rec.Replaced = v.Record.Replaced
		if text, err = session.EncodeRecord(rec, trail); err != nil {
			t.Fatal(err)
		}
	case v.Values != "":
		rec.Data = []byte(expandTemplate(t, v.Values, nil))
		if text, err = session.EncodeRecord(rec, trail); err != nil {
			t.Fatal(err)
		}
	case v.Base64 != "":
		if text, err = base64.StdEncoding.DecodeString(v.Base64); err != nil {
			t.Fatal(err)
		}
	default:
		text = []byte(expandTemplate(t, v.Text, map[string]string{"Text": string(good), "Other": string(bobs)}))
	}
	store.plant(token, text)
	return text
}

func expandTemplate(t *testing.T, text string, data any) string {
	t.Helper()
	tmpl, err := template.New("").Funcs(template.FuncMap{
		"repeat": func(n int, s string) string { return strings.Repeat(s, n) },
		"byte":   func(b int) string { return string([]byte{byte(b)}) },
		"head":   func(n int, s string) string { return s[:n] },
		"tail":   func(n int, s string) string { return s[n:] },
		"line":   func(s string) string { return s[:strings.IndexByte(s, '\n')] },
		"members": func(n int) string {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, `"k%d":%d,`, i, i)
			}
			return strings.TrimSuffix(b.String(), ",")
		},
	}).Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, data); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (s *site) checkPlanted(t *testing.T, v *recordVector, store *byteStore, token string, planted []byte) {
	t.Helper()
	s.store.reset()
	before := s.Stats()
	res, a := s.get("/read", with(token))
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: a page that cannot be opened until the cookie is deleted by hand", res.Status)
	}
	got := "session"
	if a.New {
		got = "none"
	}
	if got != v.Want {
		t.Fatalf("%s, want %s: %s (%+v)", got, v.Want, v.Why, a)
	}
	// A session may be touched, and this store has no other way than a Save.
	if n := s.store.count("save", "delete"); v.Want == "none" && n != 0 || len(res.Header["Set-Cookie"]) != 0 {
		t.Errorf("a read cost %d writes, cookies %v", n, res.Header["Set-Cookie"])
	}
	reported := s.Stats().Unreadable - before.Unreadable
	if v.Reported != (reported == 1) || v.Reported != strings.Contains(s.log.String(), "a record is no session") {
		t.Errorf("counted %d, reported %v wanted; log: %s", reported, v.Reported, s.log)
	}
	if v.Reported && !strings.Contains(s.log.String(), session.ID(token)) {
		t.Errorf("the log does not name the record: %s", s.log)
	}
	if v.Want == "session" {
		if a.User != "alice" || a.Value != v.Reads {
			t.Errorf("read %+v, want alice and %q", a, v.Reads)
		}
		return
	}
	if a.User != "" || a.Value != "" {
		t.Errorf("no session, but it says %+v", a)
	}
	// A page that writes gets a session of another ID; what was planted is no
	// part of it and stays for whoever looks into it.
	res, a = s.get("/write?v=x", with(token))
	if res.StatusCode != http.StatusOK || !a.New || a.ID == session.ID(token) || len(res.Cookies()) != 1 || a.User != "" {
		t.Errorf("%s, %+v, cookies %v", res.Status, a, res.Cookies())
	}
	if kept := store.texts[session.ID(token)]; string(kept) != string(planted) {
		t.Error("the planted record was overwritten")
	}
}

// A record that is damaged anywhere is no session. What a touch overwrites
// stands outside of the checksum; damage there can end a session or move its
// idle time within its Lifetime, and no more.
func TestDamagedRecords(t *testing.T) {
	store := newByteStore(nil)
	s := newSiteOver(t, store, &session.Options{})
	token := s.token(t, "/login?u=alice")
	s.get("/write?v=gold", with(token))
	id := session.ID(token)
	good := string(store.texts[id])
	if len(good) < 100 || len(good) > 400 {
		t.Fatalf("a record of %d bytes", len(good))
	}
	t.Run("cut at every length", func(t *testing.T) {
		for n := range len(good) {
			if rec, _, err := session.DecodeRecord(id, []byte(good[:n])); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%d of %d bytes: %+v, %v", n, len(good), rec, err)
			}
		}
	})
	t.Run("one bit flipped at every place", func(t *testing.T) {
		want, _, err := session.DecodeRecord(id, []byte(good))
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(good) * 8 {
			text := []byte(good)
			text[i/8] ^= 1 << (i % 8)
			rec, _, err := session.DecodeRecord(id, text)
			if errors.Is(err, session.ErrNotFound) {
				continue
			}
			if at := i / 8; err != nil || at < session.RecordExpires || at >= session.RecordTrail+session.TrailLen {
				t.Errorf("bit %d of byte %d: %+v, %v", i%8, at, rec, err)
				continue
			}
			// Times and trail only.
			if rec.User != want.User || string(rec.Data) != string(want.Data) || rec.Version != want.Version ||
				!rec.Created.Equal(want.Created) || !rec.SignedIn.Equal(want.SignedIn) || !rec.Deadline.Equal(want.Deadline) {
				t.Errorf("bit %d of byte %d: %+v", i%8, i/8, rec)
			}
		}
	})
	t.Run("a byte more, anywhere", func(t *testing.T) {
		for i := range len(good) + 1 {
			for _, extra := range []string{" ", "0", "\n", "\x00"} {
				text := good[:i] + extra + good[i:]
				rec, _, err := session.DecodeRecord(id, []byte(text))
				if err == nil && (i < session.RecordExpires || i > session.RecordTrail+session.TrailLen) {
					t.Errorf("%q at %d: %+v", extra, i, rec)
				}
			}
		}
	})
}

// A value of another type than its key is not there, breaks no page, is logged
// once a key, and never shown.
func TestValueOfAnotherType(t *testing.T) {
	store := newByteStore(nil)
	s := newSiteOver(t, store, &session.Options{})
	type address struct{ Street string }
	counts := session.NewKey[int]("counts")
	home := session.NewKey[address]("home")
	h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sess, err := session.From(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		_, value := keyValue.Get(sess)
		_, count := counts.Get(sess)
		_, at := home.Get(sess)
		_, popped := counts.Pop(sess)
		_, taken, err := counts.Take(r.Context(), sess)
		json.NewEncoder(w).Encode([]any{value, count, at, popped, taken, err == nil, sess.Err() == nil})
	}))
	for _, c := range []struct{ name, values, why string }{
		{"number for text", `{"value":4711,"counts":"four","home":"SW1A"}`, "what an older program kept"},
		{"object and array", `{"value":{"a":[1]},"counts":[1,2],"home":[]}`, "structures for scalars"},
		{"a number too large", `{"value":true,"counts":99999999999999999999,"home":1e400}`, "it fits no int"},
		{"a fraction", `{"value":[],"counts":1.5,"home":false}`, "an int is whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			token := s.token(t, "/login?u=alice")
			rec, trail, err := session.DecodeRecord(session.ID(token), store.texts[session.ID(token)])
			if err != nil {
				t.Fatal(err)
			}
			rec.Version, rec.Data = rec.Version-1, []byte(c.values)
			text, err := session.EncodeRecord(rec, trail)
			if err != nil {
				t.Fatal(err)
			}
			store.plant(token, text)
			for range 3 {
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Cookie", "__Host-session="+token)
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, r)
				if got := strings.TrimSpace(rec.Body.String()); rec.Code != 200 || got != "[false,false,false,false,false,true,true]" {
					t.Errorf("%d %s: %s", rec.Code, got, c.why)
				}
			}
			if kept := string(store.texts[session.ID(token)]); !strings.HasSuffix(kept, c.values) {
				t.Errorf("the values are changed: %s", kept)
			}
		})
	}
	for _, name := range []string{"value", "counts", "home"} {
		if n := strings.Count(s.log.String(), `"key":"`+name+`"`); n != 1 {
			t.Errorf("%s is logged %d times: %s", name, n, s.log)
		}
	}
	for _, secret := range []string{"4711", "four", "SW1A"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log shows %q: %s", secret, s.log)
		}
	}
}

// A server-side store refuses what no NewToken made before it looks anywhere.
func TestMalformedTokensCostNoLookup(t *testing.T) {
	store := newByteStore(nil)
	s := newSiteOver(t, store, &session.Options{})
	token := s.token(t, "/login?u=alice")
	store.gets = 0
	for _, bad := range []string{"", "x", token[:42], token + "A", token + "=", twin(token), token[:42] + "+", token[:42] + ".",
		" " + token[1:], strings.Repeat("A", 1<<20), strings.Repeat("\x00", 43), strings.Repeat("é", 21) + "x", "../" + token[3:], token[:21] + "\n" + token[22:]} {
		if _, err := store.Load(t.Context(), bad); err != session.ErrNotFound {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	if store.gets != 0 {
		t.Errorf("%d lookups", store.gets)
	}
	if _, err := store.Load(t.Context(), token); err != nil || store.gets != 1 {
		t.Errorf("the good token: %v, %d lookups", err, store.gets)
	}
}
