package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// serverSavePromises need a place that can compare.
var serverSavePromises = []promise{
	{"Save with Version 0 never takes over an existing ID", createNeverTakesOver},
	{"an update of a missing record is ErrNotFound and creates nothing", updateNeverCreates},
	{"a stale Version is ErrConflict and loses nothing", staleVersionConflicts},
	{"a Version that was never written is ErrConflict", futureVersionConflicts},
	{"an expired record counts as gone for Save", expiredIsGoneForSave},
	{"an expired ID can be created again", expiredIDIsFree},
	{"a Save without a Tag is compared all the same", saveWithoutTag},
	{"a used Tag harms nothing", usedTag},
	{"of several that create one ID exactly one wins", oneCreateWins},
	{"of several that save one version exactly one wins", oneSaveWins},
	{"400 increments by compare-and-set over two handles: 400", countBySaves},
	{"LoadAtLeast returns that version or a newer one", loadAtLeast},
	{"LoadAtLeast shows a client its own writes on every handle, whatever copies there are", ownWrites},
	{"LoadAtLeast of a version that was never written returns the newest", inventedVersion},
}

// touchPromises are asked of a store that is a Toucher.
var touchPromises = []promise{
	{"Touch moves Seen and Expires forward", touchMovesForward},
	{"Touch moves no time backwards, each on its own", touchNeverBackwards},
	{"Touch never moves Expires past the Deadline", touchStopsAtDeadline},
	{"Touch changes neither values nor Version", touchChangesNothingElse},
	{"a Save that loaded before a Touch succeeds", saveAfterTouch},
	{"a touched session outlives its old Expires", touchedLivesOn},
	{"Touch of a missing record is ErrNotFound and creates nothing", touchNeverCreates},
	{"an expired record counts as gone for Touch", expiredIsGoneForTouch},
	{"after Delete no Touch brings the session back", noTouchAfterDelete},
	{"a Touch that races Delete does not bring the session back", touchRacesDelete},
	{"a Touch that races a Save loses nothing", touchRacesSave},
}

func createNeverTakesOver(t *place) {
	a, b := t.open(), t.open()
	want, token := t.draft("alice")
	t.save(a, want, token)
	other, _ := t.draft("mallory", func(r *session.Record) { r.ID = want.ID })
	for version := int64(1); version <= 2; version++ {
		for _, s := range []session.Store{a, b} {
			_, err := s.Save(t.Context(), other)
			t.wantErr("Save with Version 0 of an existing ID", err, session.ErrConflict)
			got := t.load(s, token)
			if d := diff(got, want); d != "" || got.Version != version {
				t.Fatalf("the existing session changed: %s (version %d)", d, got.Version)
			}
		}
		rec := t.load(a, token)
		t.save(a, rec, token)
	}
	if l, ok := session.As[session.Lister](a); ok {
		for info, err := range l.List(t.Context(), "mallory") {
			t.supported(err)
			t.Errorf("List of the refused user yields %+v, %v", info, err)
		}
	}
}

func updateNeverCreates(t *place) {
	s := t.open()
	for _, version := range []int64{1, 2, 1 << 40} {
		rec, token := t.draft("alice", func(r *session.Record) { r.Version = version })
		_, err := s.Save(t.Context(), rec)
		t.wantErr(fmt.Sprintf("Save of a missing record at version %d", version), err, session.ErrNotFound)
		t.gone(s, token, "after an update of nothing")
		rec.Version = 0
		t.save(s, rec, token) // the ID is still free
	}
}

func staleVersionConflicts(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	slow := t.load(a, token) // with its Tag
	untagged := *slow
	untagged.Tag = nil
	fast := t.load(b, token)
	for round := range 2 {
		fast.Data = fmt.Appendf(nil, `{"fast":%d}`, round)
		t.save(b, fast, token)
		slow.Data = []byte(`{"slow":1}`)
		for name, rec := range map[string]*session.Record{"with its Tag": slow, "without a Tag": &untagged} {
			for _, s := range []session.Store{a, b} {
				_, err := s.Save(t.Context(), rec)
				t.wantErr("Save of a stale version "+name, err, session.ErrConflict)
			}
		}
		got := t.load(a, token)
		if d := diff(got, fast); d != "" || got.Version != fast.Version+1 {
			t.Fatalf("after the stale Save: %s (version %d)", d, got.Version)
		}
		fast = got
	}
}

func futureVersionConflicts(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	rec := t.load(s, token)
	rec.Tag = nil
	rec.Version = 7
	_, err := s.Save(t.Context(), rec)
	t.wantErr("Save at version 7 where 1 is stored", err, session.ErrConflict)
	if got := t.load(s, token); got.Version != 1 {
		t.Errorf("Version is %d; want 1", got.Version)
	}
}

func expiredIsGoneForSave(t *place) {
	s := t.open()
	token := t.create(s, "alice", t.short)
	rec := t.load(s, token)
	untagged := *rec
	untagged.Tag = nil
	t.pass(t.life())
	for name, rec := range map[string]*session.Record{"with its Tag": rec, "without a Tag": &untagged} {
		rec.Expires = t.now().Add(time.Hour)
		_, err := s.Save(t.Context(), rec)
		t.wantErr("Save of an expired record "+name, err, session.ErrNotFound)
		t.gone(s, token, "after the late Save "+name)
	}
}

func expiredIDIsFree(t *place) {
	a, b := t.open(), t.open()
	old, token := t.draft("bob", t.short)
	t.save(a, old, token)
	t.pass(t.life())
	want, _ := t.draft("alice", func(r *session.Record) { r.ID = old.ID })
	t.save(b, want, token)
	for _, s := range []session.Store{a, b} {
		got := t.load(s, token)
		if d := diff(got, want); d != "" || got.Version != 1 {
			t.Errorf("%s (version %d)", d, got.Version)
		}
	}
	if l, ok := session.As[session.Lister](a); ok {
		for info, err := range l.List(t.Context(), "bob") {
			t.supported(err)
			t.Errorf("List of the expired session's user yields %+v, %v", info, err)
		}
	}
}

func saveWithoutTag(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	for range 3 {
		rec := t.load(s, token)
		stale := *rec
		stale.Tag = nil
		rec.Tag = nil
		t.save(s, rec, token)
		_, err := s.Save(t.Context(), &stale)
		t.wantErr("Save of a stale version without a Tag", err, session.ErrConflict)
	}
	if got := t.load(s, token); got.Version != 4 {
		t.Errorf("Version is %d after four saves", got.Version)
	}
}

// A Tag serves one Save. With a used one a Save may be refused, but it neither
// overwrites nor pretends.
func usedTag(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	rec := t.load(s, token)
	t.save(s, rec, token)

	_, err := s.Save(t.Context(), rec) // the version is used as well
	t.wantErr("Save with a used Tag and its version", err, session.ErrConflict)

	rec.Version = 2 // right, as of a caller that counts along
	rec.Data = []byte(`{"second":true}`)
	_, err = s.Save(t.Context(), rec)
	if errors.Is(err, session.ErrConflict) {
		rec.Tag = nil
		_, err = s.Save(t.Context(), rec)
	}
	if err != nil {
		t.Fatalf("Save with a used Tag and the right version, then without one: %v", err)
	}
	got := t.load(s, token)
	if d := diff(got, rec); d != "" || got.Version != 3 {
		t.Errorf("%s (version %d)", d, got.Version)
	}
}

func oneCreateWins(t *place) {
	handles := []session.Store{t.open(), t.open()}
	for i := range t.rounds() / 4 {
		first, token := t.draft("user 0")
		const n = 6
		var errs [n]error
		var creates [n]func()
		for c := range creates {
			s := handles[c%len(handles)]
			rec := *first
			rec.User = fmt.Sprintf("user %d", c)
			creates[c] = func() { _, errs[c] = s.Save(t.Context(), &rec) }
		}
		together(creates[:]...)
		t.exactlyOne(fmt.Sprintf("round %d: creates", i), errs[:], func(winner int) {
			if rec := t.load(handles[1], token); rec.User != fmt.Sprintf("user %d", winner) || rec.Version != 1 {
				t.Fatalf("user %d won, but stored is %s", winner, describe(rec))
			}
		})
	}
}

func oneSaveWins(t *place) {
	handles := []session.Store{t.open(), t.open()}
	for i := range t.rounds() / 4 {
		token := t.create(handles[0], "alice")
		const n = 6
		var errs [n]error
		var saves [n]func()
		for c := range saves {
			s := handles[c%len(handles)]
			rec := t.load(s, token)
			rec.Data = fmt.Appendf(nil, `{"by":%d}`, c)
			saves[c] = func() { _, errs[c] = s.Save(t.Context(), rec) }
		}
		together(saves[:]...)
		t.exactlyOne(fmt.Sprintf("round %d: saves", i), errs[:], func(winner int) {
			rec := t.load(handles[1], token)
			if string(rec.Data) != fmt.Sprintf(`{"by":%d}`, winner) || rec.Version != 2 {
				t.Fatalf("%d won, but stored is %s with %s", winner, describe(rec), rec.Data)
			}
		})
	}
}

// exactlyOne checks that one error is nil and all others are ErrConflict.
func (t *place) exactlyOne(what string, errs []error, check func(winner int)) {
	t.Helper()
	winner, won := 0, 0
	for i, err := range errs {
		switch {
		case err == nil:
			winner = i
			won++
		case !errors.Is(err, session.ErrConflict):
			t.Errorf("%s: one that lost: %v; want ErrConflict", what, err)
		}
	}
	if won != 1 {
		t.Fatalf("%s: %d of %d won; want 1", what, won, len(errs))
	}
	check(winner)
}

func countBySaves(t *place) {
	const writers = 8
	each := 50
	if testing.Short() {
		each = 10
	}
	handles := []session.Store{t.open(), t.open()}
	token := t.create(handles[0], "alice", func(r *session.Record) { r.Data = []byte("0") })
	var wg sync.WaitGroup
	for w := range writers {
		s := handles[w%len(handles)]
		wg.Go(func() {
			for range each {
				if err := increment(t, s, token); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.settle()
	rec := t.load(handles[0], token)
	if want := fmt.Sprint(writers * each); string(rec.Data) != want || rec.Version != int64(writers*each+1) {
		t.Errorf("the counter is %s at version %d; want %s at version %d", rec.Data, rec.Version, want, writers*each+1)
	}
}

// increment adds one by compare-and-set, however often it takes.
func increment(t *place, s session.Store, token string) error {
	for try := 0; ; try++ {
		rec, err := s.Load(t.Context(), token)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		var n int
		if _, err := fmt.Sscan(string(rec.Data), &n); err != nil {
			return fmt.Errorf("the counter is %q", rec.Data)
		}
		rec.Data = fmt.Append(nil, n+1)
		runtime.Gosched() // let another come between
		switch _, err = s.Save(t.Context(), rec); {
		case err == nil:
			return nil
		case !errors.Is(err, session.ErrConflict):
			return fmt.Errorf("save: %w", err)
		}
		time.Sleep(rand.N(time.Duration(min(try+1, 20)) * time.Millisecond / 2)) // be fair to the others
	}
}

func loadAtLeast(t *place) {
	a, b := t.open(), t.open()
	loader := ability[session.AtLeaster](t, a)
	token := t.create(b, "alice")
	for want := int64(1); want <= 5; want++ {
		rec, err := loader.LoadAtLeast(t.Context(), token, want)
		t.supported(err)
		if err != nil || rec.Version < want {
			t.Fatalf("LoadAtLeast(%d) = %s, %v", want, describe(rec), err)
		}
		t.save(b, rec, token)
	}
	_, err := loader.LoadAtLeast(t.Context(), session.NewToken(), 1)
	t.wantErr("LoadAtLeast of an unknown token", err, session.ErrNotFound)
	_, err = loader.LoadAtLeast(t.Context(), "../"+token, 1)
	t.wantErr("LoadAtLeast of a malformed token", err, session.ErrNotFound)
}

// loadAtLeast is LoadAtLeast, which must succeed.
func (t *place) loadAtLeast(s session.Store, token string, version int64) *session.Record {
	t.Helper()
	rec, err := ability[session.AtLeaster](t, s).LoadAtLeast(t.Context(), token, version)
	t.supported(err)
	if err != nil || rec == nil {
		t.Fatalf("LoadAtLeast(%d) = %s, %v; want a live session", version, describe(rec), err)
	}
	return rec
}

func ownWrites(t *place) {
	handles := []session.Store{t.open(), t.open(), t.open()}
	ability[session.AtLeaster](t, handles[0])
	token := t.create(handles[0], "alice")
	for version := int64(1); version <= 12; version++ {
		for _, s := range handles {
			rec := t.loadAtLeast(s, token, version)
			if rec.Version != version {
				t.Fatalf("the client has seen version %d, and a handle shows %d", version, rec.Version)
			}
			if again := t.load(s, token); again.Version < version {
				t.Fatalf("a handle that has shown version %d goes back to %d", version, again.Version)
			}
		}
		writer := handles[version%int64(len(handles))]
		rec := t.load(writer, token)
		rec.Data = fmt.Appendf(nil, `{"version":%d}`, version+1)
		t.save(writer, rec, token)
	}
	// What has ended is seen as well.
	if err := handles[0].Delete(t.Context(), session.ID(token)); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for _, s := range handles {
		_, err := ability[session.AtLeaster](t, s).LoadAtLeast(t.Context(), token, 14)
		t.wantErr("LoadAtLeast of a version that only where the truth is can be known, after Delete", err, session.ErrNotFound)
	}
}

func inventedVersion(t *place) {
	a, b := t.open(), t.open()
	ability[session.AtLeaster](t, a)
	token := t.create(a, "alice")
	t.load(b, token)
	for round := int64(1); round <= 3; round++ {
		for _, invented := range []int64{round + 1, 1000, 1 << 40, 1<<62 - 1, 1 << 62, 1<<62 + round, math.MaxInt64, 0, -1, math.MinInt64} {
			for _, s := range []session.Store{a, b} {
				if rec := t.loadAtLeast(s, token, invented); invented > 1 && rec.Version != round {
					t.Fatalf("LoadAtLeast(%d) returns version %d; the newest is %d", invented, rec.Version, round)
				}
			}
		}
		rec := t.load(b, token)
		t.save(b, rec, token) // what was invented is in nobody's way
	}
	if rec := t.loadAtLeast(a, token, 4); rec.Version != 4 {
		t.Fatalf("LoadAtLeast(4) returns version %d", rec.Version)
	}
}

// touch calls Touch, which must succeed.
func (t *place) touch(s session.Store, id string, seen, expires time.Time) {
	t.Helper()
	if err := ability[session.Toucher](t, s).Touch(t.Context(), id, seen, expires); err != nil {
		t.supported(err)
		t.Fatalf("Touch: %v", err)
	}
}

func touchMovesForward(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	want := t.load(a, token)
	for range 3 {
		want.Seen, want.Expires = want.Seen.Add(time.Minute), want.Expires.Add(time.Minute)
		t.touch(a, want.ID, want.Seen, want.Expires)
		t.settle()
		if d := diff(t.load(b, token), want); d != "" {
			t.Fatal(d)
		}
	}
}

func touchNeverBackwards(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	want := t.load(s, token)
	early, late := want.Seen.Add(-time.Minute), want.Seen.Add(time.Minute)
	short, long := want.Expires.Add(-time.Minute), want.Expires.Add(time.Minute)
	steps := []struct {
		why               string
		seen, expires     time.Time
		forward, extended bool
	}{
		{"both earlier: a request that was slow", early, short, false, false},
		{"Seen later, Expires earlier: a node with a shorter timeout", late, short, true, false},
		{"Seen earlier, Expires later", early, long, false, true},
		{"zero times", time.Time{}, time.Time{}, false, false},
	}
	for _, step := range steps {
		t.touch(s, want.ID, step.seen, step.expires)
		if step.forward {
			want.Seen = step.seen
		}
		if step.extended {
			want.Expires = step.expires
		}
		if d := diff(t.load(s, token), want); d != "" {
			t.Fatalf("%s: %s", step.why, d)
		}
	}
}

func touchStopsAtDeadline(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	want := t.load(s, token)
	t.touch(s, want.ID, want.Seen, want.Deadline.Add(time.Hour))
	want.Expires = want.Deadline
	if d := diff(t.load(s, token), want); d != "" {
		t.Fatal(d)
	}
	free := t.create(s, "alice", func(r *session.Record) { r.Deadline = time.Time{} })
	want = t.load(s, free)
	want.Expires = want.Expires.Add(48 * time.Hour)
	t.touch(s, want.ID, want.Seen, want.Expires)
	if d := diff(t.load(s, free), want); d != "" {
		t.Errorf("without a Deadline: %s", d)
	}
}

func touchChangesNothingElse(t *place) {
	s := t.open()
	token := t.create(s, "alice", func(r *session.Record) { r.Persist, r.Data = true, textOfSize(2000) })
	want := t.load(s, token)
	t.save(s, want, token)
	want.Seen, want.Expires = want.Seen.Add(time.Minute), want.Expires.Add(time.Minute)
	t.touch(s, want.ID, want.Seen, want.Expires)
	got := t.load(s, token)
	if d := diff(got, want); d != "" || got.Version != 2 {
		t.Errorf("after Touch: %s (version %d, want 2)", d, got.Version)
	}
}

func saveAfterTouch(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	for want := int64(2); want <= 4; want++ {
		rec := t.load(a, token) // its Tag is older than the touch
		t.touch(b, rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute))
		rec.Data = fmt.Appendf(nil, `{"n":%d}`, want)
		t.save(a, rec, token)
		t.settle()
		if got := t.load(b, token); got.Version != want || !bytes.Equal(got.Data, rec.Data) {
			t.Fatalf("after a touch and a save: version %d, Data %s", got.Version, got.Data)
		}
	}
}

func touchedLivesOn(t *place) {
	s := t.open()
	token := t.create(s, "alice", t.short)
	rec := t.load(s, token)
	t.touch(s, rec.ID, t.now(), t.now().Add(time.Hour))
	t.pass(t.life())
	t.load(s, token)
	t.load(t.open(), token)
}

func touchNeverCreates(t *place) {
	s := t.open()
	token := session.NewToken()
	err := ability[session.Toucher](t, s).Touch(t.Context(), session.ID(token), t.now(), t.now().Add(time.Hour))
	t.supported(err)
	t.wantErr("Touch of a missing record", err, session.ErrNotFound)
	t.gone(s, token, "after that Touch")
}

func expiredIsGoneForTouch(t *place) {
	s := t.open()
	to := ability[session.Toucher](t, s)
	token := t.create(s, "alice", t.short)
	rec := t.load(s, token)
	t.pass(t.life())
	err := to.Touch(t.Context(), rec.ID, t.now(), t.now().Add(time.Hour))
	t.supported(err)
	t.wantErr("Touch of an expired record", err, session.ErrNotFound)
	t.gone(s, token, "after that Touch")
}

func noTouchAfterDelete(t *place) {
	a, b := t.open(), t.open()
	to := ability[session.Toucher](t, a)
	token := t.create(a, "alice")
	rec := t.load(a, token)
	if err := b.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	err := to.Touch(t.Context(), rec.ID, t.now(), t.now().Add(2*time.Hour))
	t.supported(err)
	t.wantErr("Touch of a deleted record", err, session.ErrNotFound)
	t.gone(a, token, "after the late Touch")
	t.gone(b, token, "after the late Touch")
}

func touchRacesDelete(t *place) {
	a, b := t.open(), t.open()
	to := ability[session.Toucher](t, a)
	for range t.rounds() {
		token := t.create(a, "alice")
		id := session.ID(token)
		var touched, deleted error
		together(
			func() { touched = to.Touch(t.Context(), id, t.now(), t.now().Add(2*time.Hour)) },
			func() { deleted = b.Delete(t.Context(), id) },
		)
		t.supported(touched)
		if deleted != nil || touched != nil && !errors.Is(touched, session.ErrNotFound) {
			t.Fatalf("Touch: %v; want success or ErrNotFound. Delete: %v", touched, deleted)
		}
		t.gone(a, token, "after both")
		t.gone(b, token, "after both")
	}
}

func touchRacesSave(t *place) {
	a, b := t.open(), t.open()
	to := ability[session.Toucher](t, b)
	token := t.create(a, "alice")
	id := session.ID(token)
	for i := range t.rounds() {
		rec := t.load(a, token)
		rec.Data = fmt.Appendf(nil, `{"i":%d}`, i)
		var saved, touched error
		together(
			func() { _, saved = a.Save(t.Context(), rec) },
			func() { touched = to.Touch(t.Context(), id, t.now(), rec.Expires.Add(time.Second)) },
		)
		t.supported(touched)
		if saved != nil || touched != nil {
			t.Fatalf("Save: %v, Touch: %v; a touch is no change that a Save conflicts with", saved, touched)
		}
		if got := t.load(a, token); got.Version != int64(i+2) || !bytes.Equal(got.Data, rec.Data) {
			t.Fatalf("round %d: version %d, Data %s", i, got.Version, got.Data)
		}
	}
}
