package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
)

// place is a test with a Backend of its own and the backend's clock.
type place struct {
	testing.TB
	b       Backend
	another func() Backend
	moved   atomic.Int64 // by Advance
	ahead   atomic.Int64 // how far the managers' clocks are ahead of the backend's
}

func newPlace(t testing.TB, b Backend, another func() Backend) *place {
	return &place{TB: t, b: b, another: another}
}

// open returns one more handle.
func (t *place) open() session.Store {
	t.Helper()
	return t.openOf(t.b)
}

func (t *place) openOf(b Backend) session.Store {
	t.Helper()
	s := b.Open()
	if s == nil {
		t.Fatal("Backend.Open returned nil")
	}
	t.Cleanup(func() { session.Close(s) })
	return s
}

// now is the backend's clock.
func (t *place) now() time.Time { return time.Now().Add(time.Duration(t.moved.Load())) }

// life is how long a record lives that the test wants to see expire.
func (t *place) life() time.Duration {
	if t.b.Advance == nil {
		return time.Second
	}
	return 10 * time.Minute
}

// pass lets a little more than d go by.
func (t *place) pass(d time.Duration) {
	if t.b.Advance == nil {
		time.Sleep(d + 50*time.Millisecond)
		return
	}
	d += time.Minute // for a clock that stands between Advances
	t.moved.Add(int64(d))
	t.b.Advance(d)
}

// settle lets every handle see what the others did.
func (t *place) settle() {
	d := t.b.MaxStale
	switch {
	case d <= 0:
	case t.b.Advance == nil:
		time.Sleep(d + time.Millisecond)
	default:
		t.moved.Add(int64(d))
		t.b.Advance(d)
	}
}

// rounds is how often a race is run.
func (t *place) rounds() int {
	if testing.Short() {
		return 8
	}
	return 40
}

// maxData is the size of values that the backend must keep.
func (t *place) maxData() int {
	if t.b.MaxData > 0 {
		return t.b.MaxData
	}
	return 64 << 10
}

// draft returns a record that was not saved yet, and its random token.
func (t *place) draft(user string, change ...func(*session.Record)) (*session.Record, string) {
	token := session.NewToken()
	now := t.now()
	rec := &session.Record{
		ID:       session.ID(token),
		User:     user,
		Device:   "Firefox on Linux",
		Created:  now,
		Seen:     now,
		Expires:  now.Add(time.Hour),
		Deadline: now.Add(8 * time.Hour),
		Data:     []byte(`{"cart":["book"],"n":1}`),
	}
	if user != "" {
		rec.SignedIn = now
	}
	for _, f := range change {
		f(rec)
	}
	return rec, token
}

// short makes a record expire after life.
func (t *place) short(rec *session.Record) { rec.Expires = t.now().Add(t.life()) }

// create saves a new record and returns the token that opens it.
func (t *place) create(s session.Store, user string, change ...func(*session.Record)) (token string) {
	t.Helper()
	rec, token := t.draft(user, change...)
	return t.save(s, rec, token)
}

// save saves rec, which must succeed, and returns the token that opens it now.
func (t *place) save(s session.Store, rec *session.Record, token string) string {
	t.Helper()
	sealed, err := s.Save(t.Context(), rec)
	return t.saved(rec, token, sealed, err)
}

func (t *place) saved(rec *session.Record, token, sealed string, err error) string {
	t.Helper()
	switch {
	case err != nil:
		t.Fatalf("Save of %s at version %d: %v", rec.ID, rec.Version, err)
	case t.b.ClientSide && sealed == "":
		t.Fatal("Save returned no token; a client-side store returns the sealed session")
	case t.b.ClientSide:
		return sealed
	case sealed != "":
		t.Fatal("Save returned a token; a server-side store returns \"\", for the client's stays valid")
	}
	return token
}

// load loads what must be there.
func (t *place) load(s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil || rec == nil {
		t.Fatalf("Load = %v, %v; want a live session", rec, err)
	}
	return rec
}

// gone checks that the token opens nothing.
func (t *place) gone(s session.Store, token, when string) {
	t.Helper()
	t.settle()
	rec, err := s.Load(t.Context(), token)
	if rec != nil || !errors.Is(err, session.ErrNotFound) {
		t.Fatalf("%s: Load = %s, %v; want ErrNotFound", when, describe(rec), err)
	}
}

// wantErr checks an error that has one meaning.
func (t *place) wantErr(what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v; want %q", what, err, want)
	}
}

// marker returns what Renew and SetUser leave in place of rec.
func (t *place) marker(rec *session.Record) *session.Record {
	return &session.Record{
		ID: rec.ID, Device: session.ID(session.NewToken()), Created: rec.Created, Seen: t.now(), Expires: t.now().Add(time.Minute),
		Deadline: rec.Deadline, Replaced: true, Version: rec.Version, Tag: rec.Tag,
	}
}

// ability returns the ability T of s, or skips the test.
func ability[T any](t *place, s session.Store) T {
	t.Helper()
	a, ok := session.As[T](s)
	if !ok {
		t.Skipf("this store is no %v", reflect.TypeFor[T]())
	}
	return a
}

// supported skips the test where a wrapper has an ability that the store
// behind it lacks.
func (t *place) supported(err error) {
	t.Helper()
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err.Error())
	}
}

// list returns the IDs of a user's sessions, in order.
func (t *place) list(s session.Store, user string) []string {
	t.Helper()
	ids := []string{}
	for info, err := range ability[session.Lister](t, s).List(t.Context(), user) {
		if err != nil {
			t.supported(err)
			t.Fatalf("List(%q): %v", user, err)
		}
		ids = append(ids, info.ID)
	}
	slices.Sort(ids)
	return ids
}

// deleteUser ends a user's sessions; the count is checked on stores that count.
func (t *place) deleteUser(s session.Store, user, keep string, want int) {
	t.Helper()
	n, err := ability[session.UserDeleter](t, s).DeleteUser(t.Context(), user, keep)
	if err != nil {
		t.supported(err)
		t.Fatalf("DeleteUser(%q, %q): %v", user, keep, err)
	}
	if t.b.ClientSide {
		want = 0 // it cannot count
	}
	if n != want {
		t.Fatalf("DeleteUser(%q, %q) = %d; want %d", user, keep, n, want)
	}
}

// diff tells how a loaded record differs from the one that was saved, to the
// millisecond and apart from Version and Tag; "" if it does not.
func diff(got, want *session.Record) string {
	var d []string
	check := func(field string, same bool, got, want any) {
		if !same {
			d = append(d, fmt.Sprintf("%s is %v, want %v", field, got, want))
		}
	}
	moment := func(field string, got, want time.Time) {
		same := got.IsZero() == want.IsZero() && (want.IsZero() || got.UnixMilli() == want.UnixMilli())
		check(field, same, got, want)
	}
	check("ID", got.ID == want.ID, got.ID, want.ID)
	check("User", got.User == want.User, fmt.Sprintf("%q", got.User), fmt.Sprintf("%q", want.User))
	check("Device", got.Device == want.Device, fmt.Sprintf("%q", got.Device), fmt.Sprintf("%q", want.Device))
	moment("Created", got.Created, want.Created)
	moment("SignedIn", got.SignedIn, want.SignedIn)
	moment("Seen", got.Seen, want.Seen)
	moment("Expires", got.Expires, want.Expires)
	moment("Deadline", got.Deadline, want.Deadline)
	check("Persist", got.Persist == want.Persist, got.Persist, want.Persist)
	check("Replaced", got.Replaced == want.Replaced, got.Replaced, want.Replaced)
	if !bytes.Equal(got.Data, want.Data) {
		d = append(d, fmt.Sprintf("Data is %.120q (%d bytes), want %.120q (%d bytes)", got.Data, len(got.Data), want.Data, len(want.Data)))
	}
	return strings.Join(d, "; ")
}

func describe(rec *session.Record) string {
	if rec == nil {
		return "no record"
	}
	return fmt.Sprintf("record %s, user %q, version %d, replaced %t, expires %v", rec.ID, rec.User, rec.Version, rec.Replaced, rec.Expires)
}

// ended returns contexts that are over.
func (t *place) ended() map[string]context.Context {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	cancel()
	return map[string]context.Context{"cancelled": cancelled, "past its deadline": late}
}
