package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/distsession/session"
)

// listPromises are asked of a store that is a Lister, a Scanner, a Cleaner or a
// Leaser.
var listPromises = []promise{
	{"List yields every session of the user", listYieldsAll},
	{"List shows no ended and no expired session", listShowsLive},
	{"List mixes no two users up", listMixesNobodyUp},
	{"List of user \"\" is empty", listNobody},
	{"List can be left early", listLeftEarly},
	{"a Replaced marker is not listed, scanned or counted", markerIsPassedOver},
	{"what an update makes a session of the user is listed and ended", updateEntersUser},
	{"Scan yields every live record once, with its values", scanYieldsAll},
	{"what Scan yields can be saved", scannedCanBeSaved},
	{"Scan can be left early", scanLeftEarly},
	{"Clean removes nothing that lives", cleanRemovesExpired},
	{"Clean removes no more than its limit", cleanHonoursLimit},
	{"a lease is held by one handle at a time", leaseIsHeldByOne},
}

func listYieldsAll(t *place) {
	a, b := t.open(), t.open()
	ability[session.Lister](t, a)
	want := map[string]*session.Record{}
	for i := range 12 {
		rec, token := t.draft("alice", func(r *session.Record) {
			r.Device = fmt.Sprintf("device %d, %%\n🙂", i)
			r.Created, r.SignedIn = r.Created.Add(-time.Hour), r.SignedIn.Add(-time.Minute)
		})
		t.save(a, rec, token)
		want[rec.ID] = rec
		if i%2 == 0 { // one that was updated stands there once, as it is now
			rec = t.load(a, token)
			rec.Seen, rec.Expires = rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)
			t.save(b, rec, token)
			want[rec.ID] = rec
		}
	}
	for name, s := range map[string]session.Store{"the handle that saved": a, "another handle": b} {
		seen := map[string]bool{}
		for info, err := range session.List(t.Context(), s, "alice") {
			t.supported(err)
			if err != nil {
				t.Fatalf("List on %s: %v", name, err)
			}
			rec := want[info.ID]
			if rec == nil || seen[info.ID] {
				t.Fatalf("List on %s yields %+v, unknown or a second time", name, info)
			}
			seen[info.ID] = true
			got := &session.Record{
				ID: info.ID, User: info.User, Device: info.Device, Created: info.Created, SignedIn: info.SignedIn,
				Seen: info.Seen, Expires: info.Expires, Deadline: rec.Deadline, Data: rec.Data,
			}
			if d := diff(got, rec); d != "" {
				t.Errorf("List on %s: %s", name, d)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("List on %s yields %d sessions; want %d", name, len(seen), len(want))
		}
	}
}

func listShowsLive(t *place) {
	a, b := t.open(), t.open()
	ability[session.Lister](t, a)
	live, deleted := t.create(a, "alice"), t.create(a, "alice")
	t.create(a, "alice", t.short)
	if err := a.Delete(t.Context(), session.ID(deleted)); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	t.pass(t.life())
	for _, s := range []session.Store{a, b} {
		if got, want := t.list(s, "alice"), []string{session.ID(live)}; !slices.Equal(got, want) {
			t.Errorf("List = %v; want %v", got, want)
		}
	}
	if err := b.Delete(t.Context(), session.ID(live)); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if got := t.list(a, "alice"); len(got) != 0 {
		t.Errorf("List = %v after the last was deleted; want none", got)
	}
}

func listMixesNobodyUp(t *place) {
	s := t.open()
	ability[session.Lister](t, s)
	want := map[string][]string{}
	for i, user := range neighbours {
		for range i%2 + 1 {
			want[user] = append(want[user], session.ID(t.create(s, user)))
		}
		slices.Sort(want[user])
	}
	for _, user := range neighbours {
		if got := t.list(s, user); !slices.Equal(got, want[user]) {
			t.Errorf("List(%q) = %v; want %v", user, got, want[user])
		}
	}
	if got := t.list(s, "stranger"); len(got) != 0 {
		t.Errorf("List of a user without sessions = %v", got)
	}
}

func listNobody(t *place) {
	s := t.open()
	ability[session.Lister](t, s)
	for range 3 {
		t.create(s, "")
	}
	if got := t.list(s, ""); len(got) != 0 {
		t.Errorf("List(\"\") = %v; want none", got)
	}
}

func listLeftEarly(t *place) {
	s := t.open()
	l := ability[session.Lister](t, s)
	for range 5 {
		t.create(s, "alice")
	}
	for range 3 {
		n := 0
		for _, err := range l.List(t.Context(), "alice") {
			t.supported(err)
			if err != nil {
				t.Fatalf("List: %v", err)
			}
			if n++; n == 2 {
				break
			}
		}
	}
	t.create(s, "alice") // nothing is locked, and no connection is missing
	if got := t.list(s, "alice"); len(got) != 6 {
		t.Errorf("List yields %d sessions; want 6", len(got))
	}
}

func markerIsPassedOver(t *place) {
	s := t.open()
	replaced := t.create(s, "alice")
	live := t.create(s, "alice")
	t.save(s, t.marker(t.load(s, replaced)), replaced)
	if _, ok := session.As[session.Lister](s); ok {
		if got, want := t.list(s, "alice"), []string{session.ID(live)}; !slices.Equal(got, want) {
			t.Errorf("List = %v; want %v", got, want)
		}
		if got := t.list(s, ""); len(got) != 0 {
			t.Errorf("List(\"\") = %v; want none", got)
		}
	}
	if sc, ok := session.As[session.Scanner](s); ok {
		for rec, err := range sc.Scan(t.Context()) {
			t.supported(err)
			if err != nil || rec.ID != session.ID(live) {
				t.Errorf("Scan yields %s, %v", describe(rec), err)
			}
		}
	}
	if _, ok := session.As[session.UserDeleter](s); ok {
		t.deleteUser(s, "alice", "", 1)
	}
	if rec := t.load(s, replaced); !rec.Replaced {
		t.Errorf("the marker became %s", describe(rec))
	}
}

// updateEntersUser: Migrating puts a session in the place of a marker, and a
// program may give an anonymous session a user without a new ID.
func updateEntersUser(t *place) {
	s := t.open()
	ability[session.Lister](t, s)
	replaced, anonymous := t.create(s, "alice"), t.create(s, "")
	t.save(s, t.marker(t.load(s, replaced)), replaced)
	want := []string{session.ID(replaced), session.ID(anonymous)}
	for _, token := range []string{replaced, anonymous} {
		rec := t.load(s, token)
		rec.Replaced, rec.User, rec.Expires = false, "bob", t.now().Add(time.Hour)
		t.save(s, rec, token)
	}
	slices.Sort(want)
	if got := t.list(s, "bob"); !slices.Equal(got, want) {
		t.Errorf("List = %v; want %v", got, want)
	}
	if got := t.list(s, "alice"); len(got) != 0 {
		t.Errorf("List of who it was = %v; want none", got)
	}
	if _, ok := session.As[session.UserDeleter](s); ok {
		t.deleteUser(s, "bob", "", 2)
		t.gone(s, replaced, "after DeleteUser")
		t.gone(s, anonymous, "after DeleteUser")
	}
}

func scanYieldsAll(t *place) {
	s := t.open()
	scanner := ability[session.Scanner](t, s)
	want := map[string]*session.Record{}
	for i := range 30 {
		user := ""
		if i%3 > 0 {
			user = fmt.Sprintf("user %d", i%3)
		}
		rec, token := t.draft(user, func(r *session.Record) { r.Data = fmt.Appendf(nil, `{"i":%d}`, i) })
		t.save(s, rec, token)
		want[rec.ID] = rec
	}
	ended, token := t.draft("user 1")
	t.save(s, ended, token)
	if err := s.Delete(t.Context(), ended.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	t.create(s, "user 1", t.short)
	t.pass(t.life())
	seen := map[string]bool{}
	for rec, err := range scanner.Scan(t.Context()) {
		t.supported(err)
		if err != nil {
			t.Fatalf("Scan: %v", err)
		}
		if want[rec.ID] == nil || seen[rec.ID] {
			t.Fatalf("Scan yields %s, which is not live or was there already", describe(rec))
		}
		seen[rec.ID] = true
		if d := diff(rec, want[rec.ID]); d != "" || rec.Version != 1 {
			t.Errorf("Scan: %s (version %d)", d, rec.Version)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("Scan yields %d records; want %d", len(seen), len(want))
	}
}

func scannedCanBeSaved(t *place) {
	s := t.open()
	scanner := ability[session.Scanner](t, s)
	var tokens []string
	for range 3 {
		tokens = append(tokens, t.create(s, "alice"))
	}
	var found []*session.Record
	for rec, err := range scanner.Scan(t.Context()) {
		t.supported(err)
		if err != nil {
			t.Fatalf("Scan: %v", err)
		}
		found = append(found, rec)
	}
	for i, rec := range found {
		rec.Data = []byte(`{"migrated":true}`)
		if i == 0 {
			rec.Tag = nil
		}
		if _, err := s.Save(t.Context(), rec); err != nil {
			t.Fatalf("Save of a scanned record: %v", err)
		}
	}
	for _, token := range tokens {
		if rec := t.load(s, token); string(rec.Data) != `{"migrated":true}` || rec.Version != 2 {
			t.Errorf("%s with %s", describe(rec), rec.Data)
		}
	}
}

func scanLeftEarly(t *place) {
	s := t.open()
	scanner := ability[session.Scanner](t, s)
	for range 5 {
		t.create(s, "alice")
	}
	for range 3 {
		n := 0
		for _, err := range scanner.Scan(t.Context()) {
			t.supported(err)
			if err != nil {
				t.Fatalf("Scan: %v", err)
			}
			if n++; n == 2 {
				break
			}
		}
	}
	t.load(s, t.create(s, "alice"))
}

func cleanRemovesExpired(t *place) {
	s := t.open()
	cleaner := ability[session.Cleaner](t, s)
	live := t.create(s, "alice")
	rec := t.load(s, live)
	long := t.create(s, "", t.short)
	touched := false
	if to, ok := session.As[session.Toucher](s); ok {
		touched = to.Touch(t.Context(), session.ID(long), t.now(), t.now().Add(time.Hour)) == nil
	}
	var expired []string
	for range 4 {
		expired = append(expired, t.create(s, "alice", t.short))
	}
	t.pass(t.life())
	n, err := cleaner.Clean(t.Context(), t.now(), 0)
	t.supported(err)
	if err != nil || n < 0 || n > 5 || touched && n > 4 {
		t.Fatalf("Clean = %d, %v", n, err)
	}
	if d := diff(t.load(s, live), rec); d != "" {
		t.Errorf("after Clean: %s", d)
	}
	if touched {
		t.load(s, long) // its Expires moved before the old one came
	}
	for _, token := range expired {
		t.gone(s, token, "after Clean")
	}
	if n, err := cleaner.Clean(t.Context(), t.now(), 0); n != 0 || err != nil {
		t.Errorf("a second Clean = %d, %v; want 0", n, err)
	}
	if _, ok := session.As[session.Lister](s); ok {
		if got := t.list(s, "alice"); !slices.Equal(got, []string{session.ID(live)}) {
			t.Errorf("List after Clean = %v", got)
		}
	}
}

func cleanHonoursLimit(t *place) {
	s := t.open()
	cleaner := ability[session.Cleaner](t, s)
	const all, limit = 7, 3
	live := t.create(s, "alice")
	for range all {
		t.create(s, "alice", t.short)
	}
	t.pass(t.life())
	total := 0
	for range all + 1 {
		n, err := cleaner.Clean(t.Context(), t.now(), limit)
		t.supported(err)
		if err != nil || n < 0 || n > limit {
			t.Fatalf("Clean with limit %d = %d, %v", limit, n, err)
		}
		if total += n; n == 0 {
			break
		}
	}
	// A server that expires keys by itself leaves fewer to remove.
	if total > all {
		t.Errorf("Clean removed %d records; %d had expired", total, all)
	}
	t.load(s, live)
	if testing.Verbose() {
		t.Logf("Clean removed %d of %d; the others had gone by themselves", total, all)
	}
}

// The store's own clock decides, which Backend.Advance does not move: what ends
// by itself is waited for.
func leaseIsHeldByOne(t *place) {
	const handles, rounds = 4, 10
	leasers := make([]session.Leaser, handles)
	for i := range leasers {
		leasers[i] = ability[session.Leaser](t, t.open())
	}
	lease := func(l session.Leaser, name string, d time.Duration) bool {
		held, err := l.Lease(t.Context(), name, d)
		if err != nil {
			t.supported(err)
			t.Errorf("Lease(%q, %v): %v", name, d, err)
		}
		return held
	}
	for i := range rounds {
		name := fmt.Sprintf("task %d", i)
		var held [handles]bool
		var tries [handles]func()
		for h, l := range leasers {
			tries[h] = func() { held[h] = lease(l, name, time.Minute) }
		}
		together(tries[:]...)
		holder := slices.Index(held[:], true)
		if holder < 0 || slices.Contains(held[holder+1:], true) {
			t.Fatalf("round %d: who holds the lease: %v; want one", i, held)
		}
		other := leasers[(holder+1)%handles]
		if lease(other, name, time.Minute) {
			t.Fatalf("round %d: a second handle got the lease", i)
		}
		lease(other, name, 0) // gives back what it has not
		if !lease(leasers[holder], name, time.Minute) || lease(other, name, time.Minute) {
			t.Fatalf("round %d: the holder cannot keep its lease", i)
		}
		if !lease(other, name+" and another", time.Minute) {
			t.Fatalf("round %d: two names are one", i)
		}
		lease(leasers[holder], name, 0)
		if !lease(other, name, time.Minute) {
			t.Fatalf("round %d: the lease was given back, and nobody gets it", i)
		}
	}
	if !lease(leasers[0], "short", 20*time.Millisecond) {
		t.Fatal("a free lease is not to be had")
	}
	for until := time.Now().Add(patience); !lease(leasers[1], "short", time.Minute); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("a lease of 20 ms has not passed on after %v", patience)
		}
	}
	if lease(leasers[0], "short", time.Minute) {
		t.Error("the lease passed on, and its old holder has it too")
	}
}
