package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// eachClientStore runs a test on a cookie store and a JWT store whose sign-outs
// are remembered in a memory store.
func eachClientStore(t *testing.T, test func(t *testing.T, n *clientNode)) {
	t.Helper()
	for _, kind := range []string{"cookie", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			clock := newTestClock()
			revoked := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
			t.Cleanup(func() { revoked.Close() })
			test(t, newClientNode(t, kind, revoked, clock))
		})
	}
}

// A clientNode is one process with a client-side store.
type clientNode struct {
	session.Store
	kind    string
	clock   *testClock
	revoked session.Store
	life    time.Duration // the longest that a token lives
}

func newClientNode(t testing.TB, kind string, revoked session.Store, clock *testClock) *clientNode {
	t.Helper()
	n := &clientNode{kind: kind, clock: clock, revoked: revoked}
	if kind == "cookie" {
		n.life = 400 * 24 * time.Hour
		n.Store = newCookieStore(t, &session.CookieOptions{Revoked: revoked, Now: clock.Now})
	} else {
		n.life = 12 * time.Hour
		n.Store = newJWTStore(t, keyHS256, &session.JWTOptions{Revoked: revoked, Now: clock.Now})
	}
	return n
}

func (n *clientNode) Unwrap() session.Store { return n.Store }

func (n *clientNode) deleteUser(t testing.TB, user, keep string) {
	t.Helper()
	if count, err := session.DeleteUser(t.Context(), n, user, keep); count != 0 || err != nil {
		t.Errorf("DeleteUser: %d, %v; want 0, for nobody can count", count, err)
	}
}

func TestRevokedConfig(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	client := newCookieStore(t, &session.CookieOptions{Irrevocable: true})
	for _, tt := range []struct {
		why         string
		revoked     session.Store
		irrevocable bool
		mend        string
	}{
		{"nothing says what signing out does", nil, false, "set Revoked"},
		{"both say it", memory, true, "remove one"},
		{"it would remember on the client's side", client, false, "server-side"},
		{"so it would behind a wrapper", wrapper{client}, false, "server-side"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			_, err := session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Revoked: tt.revoked, Irrevocable: tt.irrevocable})
			_, err2 := session.NewJWTStore([]session.JWTKey{keyHS256}, &session.JWTOptions{
				Issuer: "i", Audience: "a", Revoked: tt.revoked, Irrevocable: tt.irrevocable,
			})
			for _, err := range []error{err, err2} {
				if !errors.Is(err, session.ErrConfig) || !strings.Contains(fmt.Sprint(err), tt.mend) {
					t.Errorf("got %v, want ErrConfig with %q", err, tt.mend)
				}
			}
		})
	}
	if _, err := session.NewCookieStore([][]byte{testKey(1)}, nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("no options: got %v, want ErrConfig", err)
	}
}

type wrapper struct{ session.Store }

func (w wrapper) Unwrap() session.Store { return w.Store }

func TestRevokedDelete(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		rec := testRecord(n.clock, "ada")
		first := mustSave(t, n, rec)
		loaded := mustLoad(t, n, first)
		second := mustSave(t, n, loaded)
		slow := mustLoad(t, n, second) // a request still running at sign-out
		other := mustSave(t, n, testRecord(n.clock, "ada"))

		for range 2 { // deleting it again is no error
			if err := n.Delete(t.Context(), rec.ID); err != nil {
				t.Fatal(err)
			}
		}
		mustNot(t, n, first, "an older token of the session")
		mustNot(t, n, second, "its last token")
		_, err := n.Save(t.Context(), slow)
		wantErr(t, "a save that comes after", err, session.ErrNotFound)
		slow.Tag = nil
		_, err = n.Save(t.Context(), slow)
		wantErr(t, "a save that comes after, without a tag", err, session.ErrNotFound)
		_, err = n.Save(t.Context(), markerOf(loaded, n.clock.Now()))
		wantErr(t, "a renewal that comes after", err, session.ErrNotFound)
		mustLoad(t, n, other) // another session of the user lives on

		n.clock.Advance(12*time.Hour - time.Second)
		mustNot(t, n, second, "until the end")
		if err := n.Delete(t.Context(), ""); err != nil {
			t.Errorf("deleting no ID: %v", err)
		}
	})
}

func TestRevokedKeepsEntriesAsLongAsTokensLive(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		revoked := n.revoked.(*session.MemoryStore)
		live := func() int {
			revoked.Clean(t.Context(), n.clock.Now(), 0)
			return revoked.Len()
		}
		n.Delete(t.Context(), "known-by-nothing-but-its-id")
		n.Delete(session.WithDeadline(t.Context(), n.clock.Now().Add(time.Hour)), "ends-in-an-hour")
		n.Delete(session.WithDeadline(t.Context(), n.clock.Now().Add(-time.Hour)), "ended-long-ago")
		n.Delete(session.WithDeadline(t.Context(), n.clock.Now().Add(100*n.life)), "for-ever")
		n.deleteUser(t, "ada", "")
		if got := live(); got != 4 {
			t.Errorf("%d entries at first, want 4", got)
		}
		n.clock.Advance(time.Hour)
		if got := live(); got != 4 {
			t.Errorf("%d entries after an hour, want 4: clocks may differ", got)
		}
		n.clock.Advance(5 * time.Minute)
		if got := live(); got != 3 {
			t.Errorf("%d entries soon after, want 3", got)
		}
		n.clock.Advance(n.life - time.Hour - 5*time.Minute)
		if got := live(); got != 3 {
			t.Errorf("%d entries after the longest life, want 3: clocks may differ", got)
		}
		n.clock.Advance(5 * time.Minute)
		if got := live(); got != 0 {
			t.Errorf("%d entries soon after, want 0", got)
		}
	})
}

// What stands in Revoked is no session, in no list, and names nobody.
func TestRevokedEntriesAreNoSessions(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		rec := testRecord(n.clock, "ada")
		loaded := mustLoad(t, n, mustSave(t, n, rec))
		n.Delete(t.Context(), "other")
		if _, err := n.Save(t.Context(), markerOf(loaded, n.clock.Now())); err != nil {
			t.Fatal(err)
		}
		n.deleteUser(t, "ada", "")
		revoked := n.revoked.(*session.MemoryStore)
		if revoked.Len() != 3 {
			t.Fatalf("%d entries, want 3", revoked.Len())
		}
		for rec := range revoked.Scan(t.Context()) {
			t.Errorf("a scan shows %v", rec)
		}
		for info := range revoked.List(t.Context(), "ada") {
			t.Errorf("a list shows %v", info)
		}
		if n, err := revoked.DeleteUser(t.Context(), "ada", ""); n != 0 || err != nil || revoked.Len() != 3 {
			t.Errorf("DeleteUser of the store itself: %d, %v, and %d are left", n, err, revoked.Len())
		}
		for _, about := range []string{"session", "user"} {
			for _, name := range []string{"other", rec.ID, "ada"} {
				token := session.RevokedToken(about, name)
				if !session.WellFormed(token) {
					t.Errorf("%q is not the shape of a token", token)
				}
				entry, err := revoked.Load(t.Context(), token)
				if err == nil && (!entry.Replaced || entry.User != "" || strings.Contains(string(entry.Data), "ada")) {
					t.Errorf("the entry of %s %s is %+v %s", about, name, entry, entry.Data)
				}
			}
		}
	})
}

func TestReplacedMarker(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		rec := testRecord(n.clock, "ada")
		token := mustSave(t, n, rec)
		loaded, rival := mustLoad(t, n, token), mustLoad(t, n, token)
		if got, err := n.Save(t.Context(), markerOf(loaded, n.clock.Now())); got != "" || err != nil {
			t.Fatalf("marker: %q, %v", got, err)
		}
		_, err := n.Save(t.Context(), markerOf(rival, n.clock.Now()))
		wantErr(t, "the second of two that claim one session", err, session.ErrConflict)
		_, err = n.Save(t.Context(), rival)
		wantErr(t, "a save to a session that was replaced", err, session.ErrNotFound)

		n.clock.Advance(59 * time.Second)
		got := mustLoad(t, n, token)
		if !got.Replaced || got.ID != rec.ID || got.Device != "successor" || got.User != "" || len(got.Data) != 0 ||
			got.Version != 2 || !got.Expires.Equal(rec.Created.Add(time.Minute)) || !got.Deadline.Equal(rec.Deadline) {
			t.Errorf("the old token loads %+v, want the marker", got)
		}
		n.clock.Advance(time.Second)
		mustNot(t, n, token, "the old token when the marker has expired")
		_, err = n.Save(t.Context(), markerOf(rival, n.clock.Now()))
		wantErr(t, "a claim when the marker has expired", err, session.ErrNotFound)

		// The token is still authentic, so the entry has to outlive the marker.
		n.clock.Advance(28 * time.Minute)
		mustNot(t, n, token, "the old token before its own expiry")
	})
}

func TestDeleteEndsAReplacedSession(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		rec := testRecord(n.clock, "ada")
		token := mustSave(t, n, rec)
		mustSave(t, n, markerOf(mustLoad(t, n, token), n.clock.Now()))
		if err := n.Delete(t.Context(), rec.ID); err != nil {
			t.Fatal(err)
		}
		mustNot(t, n, token, "replaced, then deleted")
	})
}

func TestOneOfManyClaimsWins(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		token := mustSave(t, n, testRecord(n.clock, ""))
		var mu sync.Mutex
		var won int
		var wg sync.WaitGroup
		for range 20 {
			rec := mustLoad(t, n, token)
			wg.Go(func() {
				_, err := n.Save(context.Background(), markerOf(rec, n.clock.Now()))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if !errors.Is(err, session.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d claims won, want 1", won)
		}
	})
}

func TestDeleteUserOfClientStore(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		kept := testRecord(n.clock, "ada")
		keptToken := mustSave(t, n, kept)
		ended := mustSave(t, n, testRecord(n.clock, "ada"))
		slow := mustLoad(t, n, ended)
		bob := mustSave(t, n, testRecord(n.clock, "bob"))
		visitor := mustSave(t, n, testRecord(n.clock, ""))

		n.deleteUser(t, "ada", kept.ID)
		mustNot(t, n, ended, "a session of the user")
		_, err := n.Save(t.Context(), slow)
		wantErr(t, "a save that comes after", err, session.ErrNotFound)
		_, err = n.Save(t.Context(), markerOf(slow, n.clock.Now()))
		wantErr(t, "a renewal that comes after", err, session.ErrNotFound)
		mustLoad(t, n, bob)
		mustLoad(t, n, visitor)

		resealed := mustSave(t, n, mustLoad(t, n, keptToken))
		mustLoad(t, n, resealed)
		later := mustSave(t, n, testRecord(n.clock, "ada"))
		mustLoad(t, n, later)

		n.deleteUser(t, "ada", "")
		for _, token := range []string{keptToken, resealed, later} {
			mustNot(t, n, token, "the second call kept nobody")
		}
		n.deleteUser(t, "", "")
		mustLoad(t, n, visitor) // user "" has no sessions
	})
}

// A first save whose Tag is gone (the second save of one request) cannot know
// in which generation the session was sealed.
func TestSaveWithoutTagNeverRevives(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		token := mustSave(t, n, testRecord(n.clock, "ada"))
		rec := mustLoad(t, n, token)
		rec.Tag = nil
		mustLoad(t, n, mustSave(t, n, rec)) // nobody was ever signed out

		n.deleteUser(t, "ada", "")
		_, err := n.Save(t.Context(), rec)
		wantErr(t, "no tag, and the user has a generation", err, session.ErrConflict)

		live := mustLoad(t, n, mustSave(t, n, testRecord(n.clock, "ada")))
		live.Tag = nil
		_, err = n.Save(t.Context(), live)
		wantErr(t, "no tag; this one is live, but only its token tells", err, session.ErrConflict)

		n.deleteUser(t, "ada", live.ID)
		mustLoad(t, n, mustSave(t, n, live)) // kept by name: nothing is in doubt

		// A tag of another user is none.
		stranger := mustLoad(t, n, mustSave(t, n, testRecord(n.clock, "bob")))
		stranger.User = "ada"
		_, err = n.Save(t.Context(), stranger)
		wantErr(t, "a tag of another user", err, session.ErrConflict)
	})
}

// A generation never comes back: not when its entry has expired and a new one
// is made, and not with a node whose clock is behind.
func TestGenerationsNeverComeBack(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		// A long session that outlives the entry, if the store lets it.
		sealed := func() string {
			rec := testRecord(n.clock, "ada")
			rec.Expires, rec.Deadline = rec.Created.Add(n.life), time.Time{}
			return mustSave(t, n, rec)
		}
		old := sealed()
		n.clock.Advance(time.Hour)
		n.deleteUser(t, "ada", "")
		current := sealed()
		for range 100 {
			n.clock.Advance(n.life / 50)
			mustNot(t, n, old, "a token of the first generation")
		}
		if n := n.revoked.(*session.MemoryStore); n.Len() > 0 {
			n.Clean(t.Context(), time.Now().AddDate(100, 0, 0), 0)
		}
		mustNot(t, n, current, "expired by itself")
		fresh := sealed()
		mustLoad(t, n, fresh)
		n.deleteUser(t, "ada", "")
		mustNot(t, n, fresh, "sealed while there was no entry")
		mustLoad(t, n, sealed())
	})
}

func TestSignInAfterDeleteUserWithAClockBehind(t *testing.T) {
	for _, kind := range []string{"cookie", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			revoked := session.NewMemoryStore(nil)
			t.Cleanup(func() { revoked.Close() })
			clock, behind := &testClock{now: time.Now()}, &testClock{now: time.Now().Add(-30 * time.Minute)}
			n, late := newClientNode(t, kind, revoked, clock), newClientNode(t, kind, revoked, behind)
			before := mustSave(t, n, testRecord(clock, "ada"))
			n.deleteUser(t, "ada", "")
			rec := testRecord(behind, "ada")
			rec.Expires = clock.Now().Add(time.Hour)
			after := mustSave(t, late, rec)
			for _, node := range []*clientNode{n, late} {
				mustLoad(t, node, after)
			}
			mustNot(t, n, before, "sealed before")
		})
	}
}

// However a save and DeleteUser interleave, what was sealed before does not
// come back.
func TestSaveRacingWithDeleteUser(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		for range 100 {
			rec := mustLoad(t, n, mustSave(t, n, testRecord(n.clock, "ada")))
			var token string
			var err error
			var wg sync.WaitGroup
			wg.Go(func() { token, err = n.Save(context.Background(), rec) })
			wg.Go(func() { n.deleteUser(t, "ada", "") })
			wg.Wait()
			switch {
			case err == nil:
				mustNot(t, n, token, "sealed while DeleteUser ran")
			case !errors.Is(err, session.ErrNotFound):
				t.Fatal(err)
			}
		}
	})
}

func TestManyDeleteUsersAtOnce(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		token := mustSave(t, n, testRecord(n.clock, "ada"))
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				n.deleteUser(t, "ada", "")
				n.Delete(context.Background(), "one-session")
			})
		}
		wg.Wait()
		mustNot(t, n, token, "after all of them")
		mustLoad(t, n, mustSave(t, n, testRecord(n.clock, "ada")))
	})
}

// Two stores of different kinds that share Revoked share their users.
func TestSharedRevoked(t *testing.T) {
	clock := newTestClock()
	revoked := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
	t.Cleanup(func() { revoked.Close() })
	cookies, jwts := newClientNode(t, "cookie", revoked, clock), newClientNode(t, "jwt", revoked, clock)
	a, b := mustSave(t, cookies, testRecord(clock, "ada")), mustSave(t, jwts, testRecord(clock, "ada"))
	jwts.deleteUser(t, "ada", "")
	mustNot(t, cookies, a, "the cookie")
	mustNot(t, jwts, b, "the JWT")
}

// brokenStore is a server that is down, or holds an entry that is damaged.
type brokenStore struct {
	session.Store
	err error
}

func (s brokenStore) Load(context.Context, string) (*session.Record, error) { return nil, s.err }

var errBroken = errors.New("the server is down")

func TestFailingRevokedIsNeverNotRevoked(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		rec := testRecord(n.clock, "ada")
		token := mustSave(t, n, rec)
		loaded := mustLoad(t, n, token)
		for _, tt := range []struct {
			why string
			err error
		}{
			{"down", errBroken},
			{"an entry that cannot be decoded", fmt.Errorf("%w: record x cannot be decoded", session.ErrNotFound)},
		} {
			broken := newClientNode(t, n.kind, brokenStore{n.revoked, tt.err}, n.clock)
			_, loadErr := broken.Load(t.Context(), token)
			_, saveErr := broken.Save(t.Context(), loaded)
			_, signInErr := broken.Save(t.Context(), testRecord(n.clock, "ada"))
			_, markerErr := broken.Save(t.Context(), markerOf(loaded, n.clock.Now()))
			_, userErr := broken.Store.(session.UserDeleter).DeleteUser(t.Context(), "ada", "")
			for what, err := range map[string]error{
				"Load": loadErr, "Save": saveErr, "a sign-in": signInErr, "a marker": markerErr,
				"Delete": broken.Delete(t.Context(), rec.ID), "DeleteUser": userErr,
			} {
				if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
					t.Errorf("%s: %s: got %v, want a failure of the store", tt.why, what, err)
				}
			}
			mustNot(t, broken, "1nonsense", "a forged token asks nobody")
		}
	})
}

// A memory store that is full refuses to remember more; it does not forget.
func TestFullRevoked(t *testing.T) {
	clock := newTestClock()
	revoked := session.NewMemoryStore(&session.MemoryOptions{MaxSessions: 2, Now: clock.Now})
	t.Cleanup(func() { revoked.Close() })
	n := newClientNode(t, "cookie", revoked, clock)
	a, b, c := testRecord(clock, ""), testRecord(clock, ""), testRecord(clock, "")
	tokens := []string{mustSave(t, n, a), mustSave(t, n, b), mustSave(t, n, c)}
	if err := errors.Join(n.Delete(t.Context(), a.ID), n.Delete(t.Context(), b.ID)); err != nil {
		t.Fatal(err)
	}
	if err := n.Delete(t.Context(), c.ID); err == nil {
		t.Error("a third session was ended where two can be remembered")
	}
	mustNot(t, n, tokens[0], "ended first")
	mustNot(t, n, tokens[1], "ended second")
}

// A record that somebody put where an entry should be is no answer.
func TestPlantedEntry(t *testing.T) {
	eachClientStore(t, func(t *testing.T, n *clientNode) {
		for _, data := range []string{``, `{}`, `null`, `{"ended":false}`, `{"ended":true,"replaced":{"expires":1}}`, `{"ended":1}`} {
			rec := testRecord(n.clock, "")
			token := mustSave(t, n, rec)
			planted := testRecord(n.clock, "")
			planted.ID, planted.Data = session.ID(session.RevokedToken("session", rec.ID)), []byte(data)
			mustSave(t, n.revoked, planted)
			if _, err := n.Load(t.Context(), token); err == nil || errors.Is(err, session.ErrNotFound) {
				t.Errorf("%q: got %v, want a failure", data, err)
			}
		}
	})
}
