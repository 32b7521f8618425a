package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distsession/session"
)

// storePromises is what Run tests.
var storePromises = &suite{
	every: slices.Concat([]promise{
		{"Load returns what Save wrote, to the millisecond", loadReturnsWhatSaveWrote},
		{"values up to MaxData come back", valuesUpToMaxData},
		{"values that do not fit are ErrTooLarge and harm nothing", valuesTooLarge},
		{"values may be any bytes", anyBytes},
		{"each Save adds one to the Version", eachSaveAddsOne},
		{"Save neither keeps nor changes the record", saveKeepsNothing},
		{"two Loads share no record", twoLoadsShareNothing},
		{"a token that the server did not issue is ErrNotFound, and never adopted", hostileTokensAreNotFound},
		{"a token of another place is ErrNotFound", tokenOfAnotherPlace},
		{"no error shows a token or a value", noErrorShowsAToken},
		{"another handle sees a write at once", anotherHandleSees},
		{"a context that has ended never makes a live session ErrNotFound", endedContext},
		{"one handle serves many goroutines", manyGoroutines},
		{"an ability is found through a wrapper", abilityThroughWrapper},
		{"Close ends one handle and leaves the others working", closeLeavesOthers},
	}, expiryPromises, endPromises),
	serverSide: slices.Concat(serverSavePromises, touchPromises, listPromises),
	clientSide: clientPromises,
}

func loadReturnsWhatSaveWrote(t *place) {
	s := t.open()
	for _, tt := range []struct {
		name, why string
		change    func(*session.Record)
	}{
		{"a signed-in user", "the usual one", func(r *session.Record) {}},
		{"nobody", "a cart before the sign-in; SignedIn is the zero time", func(r *session.Record) { r.User, r.SignedIn = "", time.Time{} }},
		{"signed in earlier", "Renew keeps SignedIn and Created", func(r *session.Record) {
			r.Created, r.SignedIn = r.Created.Add(-2*time.Hour), r.Created.Add(-time.Hour)
		}},
		{"zero Deadline", "no absolute end", func(r *session.Record) { r.Deadline = time.Time{} }},
		{"one millisecond", "the precision that is promised", func(r *session.Record) {
			r.Seen = r.Seen.Truncate(time.Second).Add(time.Millisecond)
			r.Expires = r.Expires.Truncate(time.Second).Add(999 * time.Millisecond)
		}},
		{"whole seconds", "a text format may drop the zeros", func(r *session.Record) {
			r.Created, r.Seen = r.Created.Truncate(time.Second), r.Seen.Truncate(time.Second)
		}},
		{"another time zone", "the instant counts", func(r *session.Record) {
			r.Seen = r.Seen.In(time.FixedZone("UTC+5:45", (5*60+45)*60))
		}},
		{"Persist", "the cookie outlives the browser", func(r *session.Record) { r.Persist = true }},
		{"no device", "Options.Device is nil", func(r *session.Record) { r.Device = "" }},
		{"a user with spaces and lines", "separators of a text format", func(r *session.Record) { r.User = " alice\tb\r\nc  \n" }},
		{"a user with escapes", "what escapes must be escaped itself", func(r *session.Record) { r.User = `a%20b+c\n"d'e&f=g:h/i|j,k;l{m}*` }},
		{"a user in UTF-8", "two, three and four bytes, and one that combines", func(r *session.Record) { r.User = "ålice 日本 🙂 e\u0301" }},
		{"a user of one dash", "a text format may write \"-\" for none", func(r *session.Record) { r.User = "-" }},
		{"a long user", "identity providers issue such", func(r *session.Record) { r.User = strings.Repeat("u", 200) }},
		{"a device in UTF-8", "the browser's text, cut by nobody", func(r *session.Record) { r.Device = "Fire\nfox %zz 🦊 <b>\"" }},
		{"nil values", "a session that only signs in", func(r *session.Record) { r.Data = nil }},
		{"no values", "every value was deleted", func(r *session.Record) { r.Data = []byte("{}") }},
		{"values with escapes", "Data is opaque: byte for byte, not as some encoder would write it", func(r *session.Record) {
			r.Data = []byte(`{"a":"\u0000\u2028<&>\/é🙂","b":1.0e2,"b":12345678901234567890,"c":{"":[null,true]},"z":"\n"}`)
		}},
	} {
		want, token := t.draft("alice", tt.change)
		token = t.save(s, want, token)
		got, err := s.Load(t.Context(), token)
		if err != nil {
			t.Errorf("%s (%s): Load: %v", tt.name, tt.why, err)
			continue
		}
		if d := diff(got, want); d != "" {
			t.Errorf("%s (%s): %s", tt.name, tt.why, d)
		}
		if got.Version != 1 {
			t.Errorf("%s: Version is %d after the first Save; want 1", tt.name, got.Version)
		}
		// An update writes the same fields by another way.
		got.Data = want.Data
		token = t.save(s, got, token)
		if d := diff(t.load(s, token), want); d != "" {
			t.Errorf("%s (%s), saved again: %s", tt.name, tt.why, d)
		}
	}
}

// textOfSize is a JSON object of so many bytes that a compressor cannot shrink
// much.
func textOfSize(n int) []byte {
	const head, tail = `{"v":"`, `"}`
	b := []byte(head)
	for len(b) < n {
		b = append(b, session.NewToken()...)
	}
	return append(b[:max(len(head), n-len(tail))], tail...)
}

func valuesUpToMaxData(t *place) {
	s := t.open()
	for _, size := range []int{1 << 10, t.maxData() / 2, t.maxData()} {
		want, token := t.draft("alice", func(r *session.Record) { r.Data = textOfSize(size) })
		token = t.save(s, want, token)
		if d := diff(t.load(s, token), want); d != "" {
			t.Errorf("%d bytes: %s", size, d)
		}
	}
}

func valuesTooLarge(t *place) {
	if t.b.MaxData == 0 {
		t.Skip("Backend.MaxData names no limit")
	}
	s := t.open()
	want, token := t.draft("alice")
	token = t.save(s, want, token)
	large := *t.load(s, token)
	large.Data = textOfSize(4*t.b.MaxData + 64<<10)
	_, err := s.Save(t.Context(), &large)
	t.wantErr(fmt.Sprintf("Save of %d bytes", len(large.Data)), err, session.ErrTooLarge)
	if d := diff(t.load(s, token), want); d != "" {
		t.Errorf("after a Save that did not fit: %s", d)
	}
	first, firstToken := t.draft("alice", func(r *session.Record) { r.Data = large.Data })
	_, err = s.Save(t.Context(), first)
	t.wantErr(fmt.Sprintf("a first Save of %d bytes", len(large.Data)), err, session.ErrTooLarge)
	t.gone(s, firstToken, "after a first Save that did not fit")
}

func anyBytes(t *place) {
	s := t.open()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, data := range map[string][]byte{
		"every byte": all, "one NUL": {0}, "a newline": []byte("\n"), "invalid UTF-8": {0xff, 0xfe, 0xc0}, "a zlib header": {0x78, 0x9c, 0},
	} {
		want, token := t.draft("alice", func(r *session.Record) { r.Data = data })
		token = t.save(s, want, token)
		if got := t.load(s, token); !bytes.Equal(got.Data, data) {
			t.Errorf("%s: Data is %q; want %q", name, got.Data, data)
		}
	}
}

func eachSaveAddsOne(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	for want := int64(1); want <= 5; want++ {
		rec := t.load(s, token)
		if rec.Version != want {
			t.Fatalf("after %d saves Version is %d", want, rec.Version)
		}
		rec.Data = fmt.Appendf(nil, `{"n":%d}`, want)
		token = t.save(s, rec, token)
	}
}

func saveKeepsNothing(t *place) {
	s := t.open()
	rec, token := t.draft("alice", func(r *session.Record) { r.Expires = r.Deadline.Add(time.Hour) })
	for range 2 { // creates, then updates
		before := *rec
		before.Data = slices.Clone(rec.Data)
		token = t.save(s, rec, token)
		if !reflect.DeepEqual(*rec, before) {
			t.Fatalf("Save changed the record: %+v, was %+v", *rec, before)
		}
		for i := range rec.Data {
			rec.Data[i] = 'X'
		}
		rec.User, rec.Expires = "mallory", time.Time{}
		got := t.load(s, token)
		if got.User != "alice" || !bytes.Equal(got.Data, before.Data) {
			t.Fatalf("a change to the record after Save is in the store: %s, Data %q", describe(got), got.Data)
		}
		rec = got
		rec.Data = slices.Clone(got.Data)
	}
}

func twoLoadsShareNothing(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	one, two := t.load(s, token), t.load(s, token)
	want := *two
	*one = session.Record{ID: "changed", User: "mallory", Version: 99, Tag: "changed"}
	if d := diff(two, &want); d != "" {
		t.Errorf("a change to one loaded record changed another: %s", d)
	}
	three := t.load(s, token)
	if d := diff(three, &want); d != "" || three.Version != 1 {
		t.Errorf("a change to a loaded record reached the store: %s (version %d)", d, three.Version)
	}
}

func hostileTokensAreNotFound(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	want := t.load(s, token)
	for _, h := range hostileTokens(t, token, want.ID) {
		for range 2 { // the first must not make the second succeed
			rec, err := s.Load(t.Context(), h.Token)
			if rec != nil || !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%s (%s): Load = %s, %v; want ErrNotFound", h.Name, h.Why, describe(rec), err)
			}
		}
	}
	if d := diff(t.load(s, token), want); d != "" {
		t.Errorf("the live session changed: %s", d)
	}
	if scanner, ok := session.As[session.Scanner](s); ok {
		for rec, err := range scanner.Scan(t.Context()) {
			t.supported(err)
			if err != nil || rec.ID != want.ID {
				t.Errorf("Scan yields %s, %v; want the one live session", describe(rec), err)
			}
		}
	}
}

func tokenOfAnotherPlace(t *place) {
	token := t.create(t.open(), "alice")
	other := t.openOf(t.another())
	t.gone(other, token, "a token of another place")
	t.create(other, "alice")
	t.gone(other, token, "a token of another place, after a Save there")
}

func noErrorShowsAToken(t *place) {
	s := t.open()
	const secret = "correct-horse-battery-staple"
	token := t.create(s, "alice", func(r *session.Record) { r.Data = []byte(`{"v":"` + secret + `"}`) })
	rec := t.load(s, token)
	check := func(what string, err error, secrets ...string) {
		for _, secret := range secrets {
			if err != nil && len(secret) > 8 && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows a secret: %.300v", what, err)
			}
		}
	}
	for _, h := range hostileTokens(t, token, rec.ID) {
		_, err := s.Load(t.Context(), h.Token)
		check("Load of "+h.Name, err, token, h.Token)
	}
	for name, ctx := range t.ended() {
		_, err := s.Load(ctx, token)
		check("Load with a context "+name, err, token, secret)
		_, err = s.Save(ctx, rec)
		check("Save with a context "+name, err, token, secret)
	}
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	_, err := s.Save(t.Context(), rec)
	check("Save after Delete", err, token, secret)
	_, err = s.Load(t.Context(), token)
	check("Load after Delete", err, token, secret)
}

func anotherHandleSees(t *place) {
	a, b := t.open(), t.open()
	for i := range 20 {
		token := t.create(a, "alice")
		rec := t.load(b, token)
		rec.Data = fmt.Appendf(nil, `{"i":%d}`, i)
		token = t.save(b, rec, token)
		t.settle()
		got := t.load(a, token)
		if d := diff(got, rec); d != "" || got.Version != 2 {
			t.Fatalf("the first handle does not see what the second saved: %s (version %d)", d, got.Version)
		}
		if err := a.Delete(t.Context(), rec.ID); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		t.gone(b, token, "deleted through another handle")
	}
}

func endedContext(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	for name, ctx := range t.ended() {
		never := func(method string, err error) {
			if errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
				t.Errorf("%s with a context %s: %v; want success or the context's error", method, name, err)
			}
		}
		_, err := s.Load(ctx, token)
		never("Load", err)
		if to, ok := session.As[session.Toucher](s); ok {
			never("Touch", to.Touch(ctx, t.load(s, token).ID, t.now(), t.now().Add(time.Hour)))
		}
		rec := t.load(s, token)
		sealed, err := s.Save(ctx, rec)
		never("Save", err)
		if err == nil && t.b.ClientSide {
			token = sealed
		}
		if got := t.load(s, token); got.Version != rec.Version && got.Version != rec.Version+1 {
			t.Errorf("after a Save with a context %s Version is %d, was %d", name, got.Version, rec.Version)
		}
		ended, endedToken := t.draft("alice")
		endedToken = t.save(s, ended, endedToken)
		if err := s.Delete(ctx, ended.ID); err == nil {
			t.gone(s, endedToken, "after Delete succeeded with a context "+name)
		} else {
			never("Delete", err)
		}
	}
}

// manyGoroutines is for the race detector, and for handles that mix answers up.
func manyGoroutines(t *place) {
	s := t.open()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			user := fmt.Sprintf("user %d", g)
			rec, token := t.draft(user)
			for i := range 10 {
				sealed, err := s.Save(t.Context(), rec)
				if err != nil {
					t.Errorf("%s: Save: %v", user, err)
					return
				}
				if t.b.ClientSide {
					token = sealed
				}
				if rec, err = s.Load(t.Context(), token); err != nil {
					t.Errorf("%s: Load: %v", user, err)
					return
				}
				if rec.User != user || rec.Version != int64(i+1) {
					t.Errorf("%s got %s at version %d", user, describe(rec), i+1)
					return
				}
				if to, ok := session.As[session.Toucher](s); ok {
					if err := to.Touch(t.Context(), rec.ID, t.now(), rec.Expires.Add(time.Second)); err != nil {
						t.Errorf("%s: Touch: %v", user, err)
					}
				}
				if l, ok := session.As[session.Lister](s); ok {
					for info, err := range l.List(t.Context(), user) {
						if err == nil && info.User != user {
							t.Errorf("%s: List yields %+v", user, info)
						}
					}
				}
				if sc, ok := session.As[session.Scanner](s); ok && i == 0 {
					for _, err := range sc.Scan(t.Context()) {
						if err != nil && !errors.Is(err, errors.ErrUnsupported) {
							t.Errorf("%s: Scan: %v", user, err)
						}
					}
				}
			}
			if err := s.Delete(t.Context(), rec.ID); err != nil {
				t.Errorf("%s: Delete: %v", user, err)
			}
		})
	}
	wg.Wait()
}

// plain is a wrapper that only observes.
type plain struct{ session.Store }

func (p plain) Unwrap() session.Store { return p.Store }

func abilityThroughWrapper(t *place) {
	s := t.open()
	through := plain{plain{s}}
	sameAbility[session.Lister](t, s, through)
	sameAbility[session.UserDeleter](t, s, through)
	sameAbility[session.Toucher](t, s, through)
	sameAbility[session.Scanner](t, s, through)
	sameAbility[session.AtLeaster](t, s, through)
	sameAbility[session.Cleaner](t, s, through)
	sameAbility[session.Leaser](t, s, through)
}

func sameAbility[T any](t *place, s, through session.Store) {
	t.Helper()
	_, has := session.As[T](s)
	if _, found := session.As[T](through); found != has {
		t.Errorf("%v: the store has it: %t; found through a wrapper: %t", reflect.TypeFor[T](), has, found)
	}
}

func closeLeavesOthers(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	if err := session.Close(a); err != nil {
		t.Fatalf("Close: %v", err)
	}
	rec := t.load(b, token)
	token = t.save(b, rec, token)
	t.load(t.open(), token)
	session.Close(a) // a second time: any answer, but no panic
	t.load(b, token)
}
