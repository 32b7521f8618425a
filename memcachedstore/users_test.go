package memcachedstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/memcachedstore"
)

// A server that evicts the index and keeps the records signs the user out. It
// revives nobody, whatever comes after.
func TestEvictedIndex(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	_, first := create(t, s, "ann")
	loaded := load(t, s, first)
	_, second := create(t, s, "ann")
	_, bob := create(t, s, "bob")
	_, nobody := create(t, s, "")
	f.evict(t, s.UserKey("ann"))
	for _, h := range []*memcachedstore.Store{s, newStore(t, []string{f.Addr}, memcachedstore.Options{})} {
		gone(t, h, first, "after the index was evicted")
		gone(t, h, second, "after the index was evicted")
	}
	load(t, s, bob)
	load(t, s, nobody)
	deleteUser(t, s, "ann", "", 0) // nothing of ann's is live

	_, third := create(t, s, "ann") // starts an index
	load(t, s, third)
	gone(t, s, first, "after the next sign-in")
	deleteUser(t, s, "ann", "", 1)
	gone(t, s, third, "after DeleteUser")

	// What was under way with the evicted session brings nothing back.
	loaded.Deadline = loaded.Deadline.Add(time.Hour)
	_, err := s.Save(t.Context(), loaded)
	wantErr(t, "a save that would write an entry", err, session.ErrNotFound)
	untagged := *loaded
	untagged.Tag = nil
	_, err = s.Save(t.Context(), &untagged)
	wantErr(t, "a save that reads first", err, session.ErrNotFound)
	if err := s.Touch(t.Context(), loaded.ID, time.Now().Add(time.Minute), time.Now().Add(2*time.Hour)); err != nil && !errors.Is(err, session.ErrNotFound) {
		t.Errorf("touch: %v", err)
	}
	gone(t, s, first, "after late saves and touches")
}

// DeleteUser ends what it cannot reach: records on a server that is down.
func TestDeleteUserWhileAServerIsDown(t *testing.T) {
	var proxies []*faults.Proxy
	var addrs []string
	for range 3 {
		p := faults.NewProxy(t, newFake(t, fakeConf{}).Addr)
		proxies, addrs = append(proxies, p), append(addrs, p.Addr)
	}
	s := newStore(t, addrs, memcachedstore.Options{Timeout: 200 * time.Millisecond})
	var tokens []string
	for range 30 {
		_, token := create(t, s, "ann")
		tokens = append(tokens, token)
	}
	ring := memcachedstore.NewRing(addrs)
	down := (ring.Pick(s.UserKey("ann")) + 1) % 3 // not the one with the index
	on := 0
	for _, token := range tokens {
		if ring.Pick(s.Key(session.ID(token))) == down {
			on++
		}
	}
	proxies[down].Cut()
	n, err := s.DeleteUser(t.Context(), "ann", "")
	if err != nil || n != len(tokens)-on || on == 0 {
		t.Errorf("DeleteUser = %d, %v; %d of %d records are on the server that is down", n, err, on, len(tokens))
	}
	proxies[down].Heal()
	for _, token := range tokens {
		gone(t, s, token, "after the server is back")
	}
	// The one with the index is another matter: nobody is told that it is done.
	_, token := create(t, s, "ann")
	proxies[ring.Pick(s.UserKey("ann"))].Cut()
	_, err = s.DeleteUser(t.Context(), "ann", "")
	failed(t, "DeleteUser without the index", err)
	if _, err := s.Load(t.Context(), token); err == nil {
		t.Error("a session is live that nobody vouches for")
	} else {
		failed(t, "Load without the index", err)
	}
}

// A sign-in that is under way when DeleteUser is called ends with the others.
func TestSignInUnderWay(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	proxy := faults.NewProxy(t, f.Addr)
	behind := newStore(t, []string{proxy.Addr}, memcachedstore.Options{})
	create(t, s, "ann")
	rec, token := draft("ann", time.Now())
	// Between the entry in the index and the record.
	proxy.LoseNext(1, isCommand("cas "+behind.UserKey("ann")), func() { deleteUser(t, s, "ann", "", 1) })
	save(t, behind, rec)
	// Its answer was lost, so it looked again, and signed in after DeleteUser.
	load(t, s, token)
	if proxy.Lost() != 1 {
		t.Fatalf("%d answers were lost", proxy.Lost())
	}
	second, secondToken := draft("ann", time.Now())
	proxy.LoseNext(1, isCommand("add "+behind.Key(second.ID)), func() { deleteUser(t, s, "ann", "", 2) })
	if _, err := behind.Save(t.Context(), second); err != nil && !errors.Is(err, session.ErrConflict) {
		t.Logf("the sign-in: %v", err)
	}
	gone(t, s, secondToken, "a sign-in whose entry DeleteUser removed")
}

// isCommand matches a request that begins so.
func isCommand(text string) func([]byte) bool {
	return func(request []byte) bool { return strings.HasPrefix(string(request), text) }
}

// Renew makes a new session and claims the old one. If the user's sessions end
// in between, the claim fails, though the old record is still there: the new
// one would live on.
func TestClaimOfWhatDeleteUserEnded(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	rec, token := create(t, s, "ann")
	old := load(t, s, token)
	record := f.item(t, s.Key(rec.ID))
	deleteUser(t, s, "ann", "", 1)
	f.write(t, s.Key(rec.ID), record.value) // DeleteUser had not come so far
	fresh, freshToken := draft("ann", time.Now())
	save(t, s, fresh)
	marker := *old
	marker.User, marker.Data, marker.Replaced = "", nil, true
	for name, tag := range map[string]any{"with a Tag": old.Tag, "without": nil} {
		marker.Tag = tag
		_, err := s.Save(t.Context(), &marker)
		wantErr(t, "the claim "+name, err, session.ErrNotFound)
	}
	other := *old
	other.User = "bob"
	_, err := s.Save(t.Context(), &other)
	wantErr(t, "a change of the user", err, session.ErrNotFound)
	gone(t, s, token, "after the claims")
	load(t, s, freshToken) // the manager deletes it
}

// A session that is saved under another user's name is that user's.
func TestUserChanges(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	_, token := create(t, s, "ann")
	rec := load(t, s, token)
	rec.User = "bob"
	save(t, s, rec)
	if got := load(t, s, token); got.User != "bob" {
		t.Errorf("the session is %q's", got.User)
	}
	deleteUser(t, s, "ann", "", 0)
	load(t, s, token)
	deleteUser(t, s, "bob", "", 1)
	gone(t, s, token, "after DeleteUser of the new user")
}

// An index entry lives as long as the session may.
func TestEntryFollowsTheDeadline(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	f := newFake(t, fakeConf{now: clock})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{Now: clock})
	rec, token := draft("ann", now)
	rec.Deadline = now.Add(2 * time.Hour)
	save(t, s, rec)
	rec = load(t, s, token)
	rec.Persist, rec.Deadline, rec.Expires = true, now.Add(60*24*time.Hour), now.Add(60*24*time.Hour)
	save(t, s, rec) // "remember me"
	other, _ := draft("ann", now)
	save(t, s, other)
	now = now.Add(59 * 24 * time.Hour)
	newcomer, _ := draft("ann", now)
	save(t, s, newcomer) // trims what is over
	load(t, s, token)
	ix, err := casstore.ParseIndex(s.UserKey("ann"), f.item(t, s.UserKey("ann")).value)
	if err != nil || len(ix) != 2 {
		t.Errorf("the index has %d entries, %v; want 2", len(ix), err)
	}
	free, freeToken := draft("ann", now)
	free.Deadline, free.Expires = time.Time{}, now.Add(300*24*time.Hour)
	save(t, s, free)
	if it := f.item(t, s.UserKey("ann")); it.expires != 0 {
		t.Errorf("the index expires at %d, and has a session without a deadline", it.expires)
	}
	now = now.Add(299 * 24 * time.Hour)
	load(t, s, freeToken)
}

func entries(t *testing.T, f *fake, s *memcachedstore.Store, user string) int {
	t.Helper()
	ix, err := casstore.ParseIndex(s.UserKey(user), f.item(t, s.UserKey(user)).value)
	if err != nil {
		t.Fatal(err)
	}
	return len(ix)
}

// Somebody who signs in and out all day leaves no endless index.
func TestIndexIsTrimmed(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	f := newFake(t, fakeConf{now: clock})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{Now: clock})
	kept, token := draft("ann", now)
	save(t, s, kept)
	for range 400 {
		rec, _ := draft("ann", now)
		save(t, s, rec)
		if err := s.Delete(t.Context(), rec.ID); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		if err := s.Touch(t.Context(), kept.ID, now, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if n := entries(t, f, s, "ann"); n > 120 {
		t.Errorf("after 400 sign-ins and -outs the index has %d entries", n)
	}
	load(t, s, token)
	listed := 0
	for _, err := range s.List(t.Context(), "ann") {
		if err != nil {
			t.Fatal(err)
		}
		listed++
	}
	// List trims what it found ended, but for those who may be signing in.
	if n := entries(t, f, s, "ann"); listed != 1 || n > 1+int(casstore.Underway/time.Minute) {
		t.Errorf("List yields %d sessions and leaves %d entries", listed, n)
	}
	load(t, s, token)
}

// A user may have thousands of sessions; when the index is full those that
// signed in first end.
func TestThousandsOfSessions(t *testing.T) {
	f := newFake(t, fakeConf{})
	opts := memcachedstore.Options{MaxItem: 24 << 10} // about 370 entries
	s := newStore(t, []string{f.Addr}, opts)
	const n = 600
	tokens := make([]string, n)
	for i := range tokens {
		_, tokens[i] = create(t, s, "ann")
	}
	live := 0
	for i, token := range tokens {
		switch _, err := s.Load(t.Context(), token); {
		case err == nil:
			live++
		case live > 0:
			t.Fatalf("session %d of %d has ended before an older one: %v", i, n, err)
		}
	}
	if live < 300 || live == n {
		t.Errorf("%d of %d sessions are live", live, n)
	}
	keep := session.ID(tokens[n-1])
	deleteUser(t, s, "ann", keep, live-1)
	for _, token := range tokens[:n-1] {
		gone(t, s, token, "after DeleteUser")
	}
	load(t, s, tokens[n-1])
}

// Damage to an index signs the user out, and the next sign-in mends it.
func TestDamagedIndex(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "text": "hello", "a header": "i1 AAAAAAAA 00000000\n", "zeros": strings.Repeat("\x00", 500)} {
		f := newFake(t, fakeConf{})
		s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
		_, token := create(t, s, "ann")
		f.write(t, s.UserKey("ann"), []byte(text))
		gone(t, s, token, name)
		for info, err := range s.List(t.Context(), "ann") {
			t.Errorf("%s: List yields %v, %v", name, info, err)
		}
		deleteUser(t, s, "ann", "", 0)
		_, second := create(t, s, "ann")
		load(t, s, second)
		gone(t, s, token, name+", after the next sign-in")
	}
}

// Many sign-ins of one user at once all get their entry.
func TestSignInsAtOnce(t *testing.T) {
	f := newFake(t, fakeConf{})
	a := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	b := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	var mu sync.Mutex
	var tokens []string
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			s := []*memcachedstore.Store{a, b}[i%2]
			rec, token := draft("ann", time.Now())
			rec.Device = fmt.Sprint(i)
			if _, err := s.Save(context.Background(), rec); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			tokens = append(tokens, token)
		})
	}
	wg.Wait()
	for _, token := range tokens {
		load(t, a, token)
	}
	deleteUser(t, b, "ann", "", 24)
}
