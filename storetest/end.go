package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distsession/session"
)

// expiryPromises: a record ends by itself.
var expiryPromises = []promise{
	{"an expired record is never returned", expiredIsNeverReturned},
	{"no Save moves Expires past the Deadline", saveStopsAtDeadline},
}

// endPromises: what was ended stays ended.
var endPromises = []promise{
	{"after Delete the token opens nothing", deleteEnds},
	{"deleting nothing is no error", deleteNothing},
	{"Delete ends one session and no other", deleteEndsOne},
	{"after Delete no Save brings the session back", noSaveAfterDelete},
	{"a Save that races Delete does not bring the session back", saveRacesDelete},
	{"a Replaced marker is loaded like any record", markerIsLoaded},
	{"a Replaced marker stays when the user's sessions end", markerOutlivesDeleteUser},
	{"Delete ends a Replaced marker", deleteEndsMarker},
	{"no marker brings back what Delete ended", noMarkerAfterDelete},
	{"of several that claim one old session exactly one wins", oneClaimWins},
	{"DeleteUser ends every session of the user", deleteUserEndsAll},
	{"DeleteUser keeps the session that it is told to keep", deleteUserKeeps},
	{"DeleteUser ends nobody else's sessions", deleteUserEndsNobodyElse},
	{"DeleteUser of user \"\" ends nothing", deleteUserNobody},
	{"DeleteUser ends what another handle saved, for every handle", deleteUserEveryHandle},
	{"a sign-in that comes after DeleteUser returned is live", signInAfterDeleteUser},
	{"after DeleteUser no Save brings a session back", noSaveAfterDeleteUser},
	{"a Save that races DeleteUser does not bring the session back", saveRacesDeleteUser},
}

func expiredIsNeverReturned(t *place) {
	s, other := t.open(), t.open()
	live := t.create(s, "alice")
	token := t.create(s, "alice", t.short)
	rec, updated := t.draft("alice")
	updated = t.save(s, rec, updated)
	rec = t.load(s, updated)
	t.short(rec)
	updated = t.save(s, rec, updated) // an update that shortens
	late, atDeadline := t.draft("alice", func(r *session.Record) { r.Deadline = t.now().Add(t.life()) })
	atDeadline = t.save(s, late, atDeadline)
	t.pass(t.life())
	for _, s := range []session.Store{s, other} {
		t.gone(s, token, "after Expires")
		t.gone(s, updated, "after the Expires of an update")
		t.gone(s, atDeadline, "after the Deadline")
		t.load(s, live)
	}
}

func saveStopsAtDeadline(t *place) {
	s := t.open()
	want, token := t.draft("alice", func(r *session.Record) {
		r.Deadline = r.Created.Add(2 * time.Hour)
		r.Expires = r.Created.Add(3 * time.Hour)
	})
	token = t.save(s, want, token)
	for range 2 {
		rec := t.load(s, token)
		if rec.Expires.UnixMilli() != want.Deadline.UnixMilli() {
			t.Fatalf("Expires is %v; want the Deadline, %v", rec.Expires, want.Deadline)
		}
		rec.Expires = want.Deadline.Add(time.Hour)
		token = t.save(s, rec, token)
	}
}

func deleteEnds(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	rec := t.load(a, token)
	newer := t.save(a, rec, token)
	if err := a.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for _, s := range []session.Store{a, b, t.open()} {
		t.gone(s, newer, "after Delete")
		t.gone(s, token, "after Delete, an older token")
	}
	if err := b.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("a second Delete: %v", err)
	}
	t.gone(a, newer, "after a second Delete")
}

func deleteNothing(t *place) {
	s := t.open()
	if err := s.Delete(t.Context(), session.ID(session.NewToken())); err != nil {
		t.Errorf("Delete of an unknown ID: %v", err)
	}
}

func deleteEndsOne(t *place) {
	s := t.open()
	var tokens []string
	for range 3 {
		tokens = append(tokens, t.create(s, "alice"))
	}
	if err := s.Delete(t.Context(), t.load(s, tokens[1]).ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	t.load(s, tokens[0])
	t.gone(s, tokens[1], "after Delete")
	t.load(s, tokens[2])
}

func noSaveAfterDelete(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	slow := t.load(a, token) // with its Tag
	slower := *slow
	slower.Tag = nil
	if err := b.Delete(t.Context(), slow.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	for name, rec := range map[string]*session.Record{"with its Tag": slow, "without a Tag": &slower} {
		rec.Data = []byte(`{"late":true}`)
		sealed, err := a.Save(t.Context(), rec)
		t.wantErr("Save of a deleted session "+name, err, session.ErrNotFound)
		if sealed != "" {
			t.Errorf("Save of a deleted session %s returned a token", name)
		}
		t.gone(a, token, "after the late Save "+name)
		t.gone(b, token, "after the late Save "+name)
	}
}

func saveRacesDelete(t *place) {
	a, b := t.open(), t.open()
	for i := range t.rounds() {
		token := t.create(a, "alice")
		rec := t.load(a, token)
		var sealed string
		var saved, deleted error
		together(
			func() { sealed, saved = a.Save(t.Context(), rec) },
			func() { deleted = b.Delete(t.Context(), rec.ID) },
		)
		if deleted != nil {
			t.Fatalf("Delete: %v", deleted)
		}
		if saved != nil && !errors.Is(saved, session.ErrNotFound) {
			t.Fatalf("round %d: Save: %v; want success or ErrNotFound", i, saved)
		}
		t.gone(a, token, "after both")
		t.gone(b, token, "after both")
		if sealed != "" {
			t.gone(b, sealed, "after both, the token that Save returned")
		}
	}
}

func markerIsLoaded(t *place) {
	a, b := t.open(), t.open()
	token := t.create(a, "alice")
	rec := t.load(a, token)
	marker := t.marker(rec)
	if _, err := a.Save(t.Context(), marker); err != nil {
		t.Fatalf("Save of the marker: %v", err)
	}
	for _, s := range []session.Store{a, b} {
		got := t.load(s, token)
		if !got.Replaced || got.ID != rec.ID || got.User != "" || len(got.Data) != 0 {
			t.Errorf("Load = %s with %d bytes of values; want the marker", describe(got), len(got.Data))
		}
		// A manager whose Save got no answer sees here who won the claim.
		if got.Device != marker.Device || got.Expires.UnixMilli() != marker.Expires.UnixMilli() {
			t.Errorf("the marker has Device %q, Expires %v; want %q, %v", got.Device, got.Expires, marker.Device, marker.Expires)
		}
	}
	// The request that loaded before the claim is too late.
	if _, err := b.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) && !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Save of what was replaced: %v; want ErrConflict or ErrNotFound", err)
	}
	if got := t.load(a, token); !got.Replaced {
		t.Errorf("after that Save: %s; want the marker", describe(got))
	}
}

func markerOutlivesDeleteUser(t *place) {
	s := t.open()
	ability[session.UserDeleter](t, s)
	token := t.create(s, "alice")
	if _, err := s.Save(t.Context(), t.marker(t.load(s, token))); err != nil {
		t.Fatalf("Save of the marker: %v", err)
	}
	current := t.create(s, "alice")
	t.deleteUser(s, "alice", "", 1)
	t.gone(s, current, "after DeleteUser")
	if rec, err := s.Load(t.Context(), token); err == nil && !rec.Replaced {
		t.Errorf("after DeleteUser the replaced token opens %s", describe(rec))
	} else if err != nil && !t.b.ClientSide {
		t.Errorf("Load of the marker after DeleteUser: %v; DeleteUser passes over markers", err)
	}
}

func deleteEndsMarker(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	rec := t.load(s, token)
	if _, err := s.Save(t.Context(), t.marker(rec)); err != nil {
		t.Fatalf("Save of the marker: %v", err)
	}
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	t.gone(s, token, "after the marker's Delete")
	_, err := s.Save(t.Context(), rec)
	t.wantErr("Save of what was replaced and deleted", err, session.ErrNotFound)
	t.gone(t.open(), token, "after that Save")
}

func noMarkerAfterDelete(t *place) {
	s := t.open()
	token := t.create(s, "alice")
	rec := t.load(s, token)
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	_, err := s.Save(t.Context(), t.marker(rec))
	t.wantErr("Save of a marker for a deleted session", err, session.ErrNotFound)
	t.gone(s, token, "after the marker was refused")
}

func oneClaimWins(t *place) {
	handles := []session.Store{t.open(), t.open()}
	for i := range t.rounds() / 4 {
		token := t.create(handles[0], "alice")
		const n = 6
		var errs [n]error
		var claims [n]func()
		for c := range claims {
			s := handles[c%len(handles)]
			marker := t.marker(t.load(s, token))
			claims[c] = func() { _, errs[c] = s.Save(t.Context(), marker) }
		}
		together(claims[:]...)
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, session.ErrConflict):
				t.Errorf("a claim that lost: %v; want ErrConflict", err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d of %d claims won; want 1", i, won, n)
		}
		if rec := t.load(handles[1], token); !rec.Replaced {
			t.Fatalf("after the claims: %s; want the marker", describe(rec))
		}
	}
}

func deleteUserEndsAll(t *place) {
	s := t.open()
	ability[session.UserDeleter](t, s)
	var tokens []string
	for range 5 {
		tokens = append(tokens, t.create(s, "alice"))
	}
	rec := t.load(s, tokens[0])
	tokens[0] = t.save(s, rec, tokens[0]) // an updated one among them
	expired := t.create(s, "alice", t.short)
	t.pass(t.life())
	t.deleteUser(s, "alice", "", 5)
	for _, token := range append(tokens, expired) {
		t.gone(s, token, "after DeleteUser")
	}
	t.deleteUser(s, "alice", "", 0)
}

func deleteUserKeeps(t *place) {
	s := t.open()
	ability[session.UserDeleter](t, s)
	one, kept, three := t.create(s, "alice"), t.create(s, "alice"), t.create(s, "alice")
	rec := t.load(s, kept)
	t.deleteUser(s, "alice", rec.ID, 2)
	t.gone(s, one, "after DeleteUser")
	t.gone(s, three, "after DeleteUser")
	if d := diff(t.load(s, kept), rec); d != "" {
		t.Errorf("the kept session changed: %s", d)
	}
	kept = t.save(s, rec, kept)
	t.load(t.open(), kept)
	t.deleteUser(s, "alice", session.ID(session.NewToken()), 1)
	t.gone(s, kept, "after a DeleteUser that kept an ID of nobody")
}

// neighbours are users that a careless key, prefix, pattern or collation takes
// for one another.
var neighbours = []string{
	"alice", "Alice", "alice ", "alic", "alice2", "alice:1", "alice/1", "alice\n", "alice,bob", "a_ice", "al%",
	"alice*", "a?ice", "[a]lice", "alicé", "alice\u0301", "-", "{alice}", "alice%20", "user", "0", "*", "日本",
}

func deleteUserEndsNobodyElse(t *place) {
	s := t.open()
	ability[session.UserDeleter](t, s)
	tokens := map[string]string{"": t.create(s, "")}
	for _, user := range neighbours {
		tokens[user] = t.create(s, user)
	}
	for _, user := range neighbours {
		t.deleteUser(s, user, "", 1)
		t.gone(s, tokens[user], fmt.Sprintf("after DeleteUser(%q)", user))
		delete(tokens, user)
		for other, token := range tokens {
			if _, err := s.Load(t.Context(), token); err != nil {
				t.Fatalf("DeleteUser(%q) ended the session of %q: %v", user, other, err)
			}
		}
	}
}

func deleteUserNobody(t *place) {
	s := t.open()
	ability[session.UserDeleter](t, s)
	anonymous, alice := t.create(s, ""), t.create(s, "alice")
	t.deleteUser(s, "", "", 0)
	t.load(s, anonymous)
	t.load(s, alice)
}

func deleteUserEveryHandle(t *place) {
	a, b := t.open(), t.open()
	ability[session.UserDeleter](t, a)
	for range 10 {
		one, two := t.create(a, "alice"), t.create(b, "alice")
		t.load(b, one)
		t.load(a, two)
		t.deleteUser(b, "alice", "", 2)
		for _, s := range []session.Store{a, b, t.open()} {
			t.gone(s, one, "after DeleteUser on another handle")
			t.gone(s, two, "after DeleteUser on another handle")
		}
	}
}

func signInAfterDeleteUser(t *place) {
	a, b := t.open(), t.open()
	ability[session.UserDeleter](t, a)
	for i := range 10 {
		old := t.create(a, "alice")
		behind, token := t.draft("alice", func(r *session.Record) {
			// The clock of this node is behind.
			r.Created, r.SignedIn, r.Seen = r.Created.Add(-time.Hour), r.SignedIn.Add(-time.Hour), r.Seen.Add(-time.Hour)
		})
		t.deleteUser(a, "alice", "", 1)
		token = t.save(b, behind, token)
		for _, s := range []session.Store{a, b} {
			t.gone(s, old, "after DeleteUser")
			if _, err := s.Load(t.Context(), token); err != nil {
				t.Fatalf("round %d: a sign-in after DeleteUser: %v", i, err)
			}
		}
		t.deleteUser(b, "alice", "", 1)
		t.gone(a, token, "after the next DeleteUser")
	}
}

func noSaveAfterDeleteUser(t *place) {
	a, b := t.open(), t.open()
	ability[session.UserDeleter](t, a)
	token := t.create(a, "alice")
	slow := t.load(a, token)
	t.deleteUser(b, "alice", "", 1)
	sealed, err := a.Save(t.Context(), slow)
	t.wantErr("Save of a session that DeleteUser ended", err, session.ErrNotFound)
	if sealed != "" {
		t.Error("Save of a session that DeleteUser ended returned a token")
	}
	if to, ok := session.As[session.Toucher](a); ok {
		t.wantErr("Touch of a session that DeleteUser ended",
			to.Touch(t.Context(), slow.ID, t.now(), t.now().Add(2*time.Hour)), session.ErrNotFound)
	}
	t.gone(a, token, "after the late Save")
	t.gone(b, token, "after the late Save")
}

func saveRacesDeleteUser(t *place) {
	a, b := t.open(), t.open()
	deleter := ability[session.UserDeleter](t, b)
	for range t.rounds() {
		token := t.create(a, "alice")
		rec := t.load(a, token)
		var sealed string
		var saved, deleted error
		together(
			func() { sealed, saved = a.Save(t.Context(), rec) },
			func() { _, deleted = deleter.DeleteUser(t.Context(), "alice", "") },
		)
		t.supported(deleted)
		if deleted != nil {
			t.Fatalf("DeleteUser: %v", deleted)
		}
		if saved != nil && !errors.Is(saved, session.ErrNotFound) {
			t.Fatalf("Save: %v; want success or ErrNotFound", saved)
		}
		t.gone(a, token, "after both")
		t.gone(b, token, "after both")
		if sealed != "" {
			t.gone(b, sealed, "after both, the token that Save returned")
		}
	}
}

// together runs all at once and waits for them.
func together(fs ...func()) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for _, f := range fs {
		wg.Go(func() {
			<-start
			f()
		})
	}
	close(start)
	wg.Wait()
}
