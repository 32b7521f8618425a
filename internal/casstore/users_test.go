package casstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/storetest"
)

// A session that comes back under its ID, as one does that moves between stores,
// is live, though DeleteUser has just ended the one that was there.
func TestDeleteUserAndComeBack(t *testing.T) {
	for _, marker := range []bool{false, true} {
		p := newPlace(time.Now)
		s := newStore(p, time.Now)
		rec, token := create(t, s, "ann", time.Now())
		p.once("remove", s.Key(rec.ID), nil, func() { comeBack(t, s, *rec, token, marker) })
		deleteUser(t, s, "ann", 1)
		load(t, s, token) // it came after
		deleteUser(t, s, "ann", 1)
		gone(t, s, token, "after the next DeleteUser")
	}
}

// comeBack saves a session under its old ID, by way of a marker if it is to.
func comeBack(t *testing.T, s session.Store, rec session.Record, token string, marker bool) {
	t.Helper()
	if marker {
		rec.User, rec.Replaced = "", true
		save(t, s, &rec)
		user := rec
		rec = *load(t, s, token)
		rec.User, rec.Replaced, rec.Data = "ann", false, user.Data
	}
	save(t, s, &rec)
}

// Whoever trims the index has seen that sessions have ended; one of them comes
// back before its entry is gone. It stays.
func TestTrimAndComeBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		trim    func(t *testing.T, s *casstore.Store, now time.Time)
		entries int // of ended sessions
	}{
		{"a list", func(t *testing.T, s *casstore.Store, _ time.Time) { list(t, s, "ann") }, 20},
		// It looks at 16 of 64 entries: one of these comes back.
		{"a sign-in", func(t *testing.T, s *casstore.Store, now time.Time) { create(t, s, "ann", now) }, 64},
	} {
		for _, marker := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, by a marker %v", tt.name, marker), func(t *testing.T) {
				clock := &storetest.Clock{}
				p := newPlace(clock.Now)
				s := newStore(p, clock.Now)
				ended := map[string]*session.Record{} // by the key
				tokens := map[string]string{}
				for range tt.entries {
					rec, token := create(t, s, "ann", clock.Now())
					ended[s.Key(rec.ID)], tokens[rec.ID] = rec, token
				}
				for _, rec := range ended {
					if err := s.Delete(t.Context(), rec.ID); err != nil {
						t.Fatal(err)
					}
				}
				clock.Advance(casstore.Underway + time.Minute)
				var back *session.Record
				p.set(func(call, key string, do func()) error {
					do()
					if rec := ended[key]; call == "get" && rec != nil { // it has seen that this one is not there
						p.set(nil)
						back = rec
						comeBack(t, s, *rec, tokens[rec.ID], marker)
					}
					return nil
				})
				tt.trim(t, s, clock.Now())
				if back == nil {
					t.Fatal("nobody looked whether the sessions have ended")
				}
				load(t, s, tokens[back.ID])
				if !list(t, s, "ann")[back.ID] {
					t.Error("the session that came back is not listed")
				}
				if n, err := s.DeleteUser(t.Context(), "ann", ""); n < 1 || err != nil {
					t.Errorf("DeleteUser = %d, %v", n, err)
				}
				gone(t, s, tokens[back.ID], "after DeleteUser")
			})
		}
	}
}

// The one that comes back renews its entry also if others change the index
// meanwhile, and once.
func TestComeBackAmongOthers(t *testing.T) {
	clock := &storetest.Clock{}
	p := newPlace(clock.Now)
	s := newStore(p, clock.Now)
	rec, token := create(t, s, "ann", clock.Now())
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	entered := func() int64 {
		t.Helper()
		for _, e := range entries(t, p, s, "ann") {
			if e.ID() == rec.ID {
				return e.Entered()
			}
		}
		t.Fatal("it has no entry")
		return 0
	}
	before := entered()
	clock.Advance(time.Minute)
	p.once("get", s.UserKey("ann"), nil, func() { create(t, s, "ann", clock.Now()) })
	save(t, s, rec)
	if now := entered(); now != before+60 {
		t.Errorf("entered at %d, and %d s later again: %d", before, 60, now)
	}
	load(t, s, token)
}

func entries(t *testing.T, p *place, s *casstore.Store, user string) casstore.Index {
	t.Helper()
	it, err := p.Get(t.Context(), s.UserKey(user))
	if err != nil {
		return nil
	}
	ix, err := casstore.ParseIndex(it.Key, it.Value)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// A sign-in whose record is not there yet is not trimmed.
func TestTrimSparesASignInUnderWay(t *testing.T) {
	p := newPlace(time.Now)
	s := newStore(p, time.Now)
	rec, token := draft("ann", time.Now())
	p.set(func(call, key string, do func()) error {
		if call == "add" && key == s.Key(rec.ID) { // its entry is there, and it is held up
			p.set(nil)
			for range 100 {
				create(t, s, "ann", time.Now())
			}
			list(t, s, "ann")
		}
		do()
		return nil
	})
	save(t, s, rec)
	load(t, s, token)
}

// A sign-in under way when DeleteUser is called ends with the others.
func TestDeleteUserMeetsASignIn(t *testing.T) {
	p := newPlace(time.Now)
	s := newStore(p, time.Now)
	create(t, s, "ann", time.Now())
	rec, token := draft("ann", time.Now())
	p.set(func(call, key string, do func()) error {
		if call == "add" && key == s.Key(rec.ID) {
			p.set(nil)
			deleteUser(t, s, "ann", 1)
		}
		do()
		return nil
	})
	save(t, s, rec)
	gone(t, s, token, "after DeleteUser")
}

// The index holds what fits; of a user who has more sessions the first end.
func TestFullIndex(t *testing.T) {
	p := newPlace(time.Now)
	p.limit = 1000
	s := newStore(p, time.Now)
	var tokens []string
	for range 20 {
		_, token := create(t, s, "ann", time.Now())
		tokens = append(tokens, token)
	}
	listed := list(t, s, "ann")
	for i, token := range tokens {
		_, err := s.Load(t.Context(), token)
		if live := err == nil; live != listed[session.ID(token)] {
			t.Errorf("session %d: live %v, listed %v", i, live, listed[session.ID(token)])
		}
	}
	if len(listed) < 10 || len(listed) == 20 || !listed[session.ID(tokens[19])] {
		t.Errorf("%d sessions are listed, the newest: %v", len(listed), listed[session.ID(tokens[19])])
	}
}

// Entries that name nothing go as the index is used.
func TestIndexIsTrimmed(t *testing.T) {
	clock := &storetest.Clock{}
	p := newPlace(clock.Now)
	s := newStore(p, clock.Now)
	inAndOut := func(n int) {
		var ids []string
		for range n {
			rec, _ := create(t, s, "ann", clock.Now())
			ids = append(ids, rec.ID)
		}
		for _, id := range ids {
			if err := s.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	inAndOut(100)
	clock.Advance(casstore.Underway + time.Minute)
	for range 50 {
		inAndOut(1)
	}
	if n := len(entries(t, p, s, "ann")); n > 120 {
		t.Errorf("after 150 sign-ins and -outs the index has %d entries", n)
	}
	clock.Advance(casstore.Underway + time.Minute)
	if ids := list(t, s, "ann"); len(ids) > 0 {
		t.Errorf("%d sessions are listed", len(ids))
	}
	if n := len(entries(t, p, s, "ann")); n != 0 {
		t.Errorf("after a list the index has %d entries", n)
	}
	inAndOut(3)
	deleteUser(t, s, "ann", 0)
	if n := len(entries(t, p, s, "ann")); n != 0 {
		t.Errorf("DeleteUser leaves %d entries", n)
	}
}

// A sign-in trims the index by the way: what it looks at for that may be on a
// server that is down, or that does not answer, and the next one tries again.
func TestSignInDoesNotNeedTheTrim(t *testing.T) {
	for name, hangs := range map[string]bool{"an error": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlace(time.Now)
				s := newStore(p, time.Now)
				old := map[string]bool{}
				for range 64 {
					rec, _ := create(t, s, "ann", time.Now())
					old[s.Key(rec.ID)] = true
				}
				looked := 0
				p.set(func(call, key string, do func()) error {
					if call == "get" && old[key] {
						looked++
						return errors.New("the server is down")
					}
					do()
					return nil
				})
				if hangs {
					p.hang = func(key string) bool {
						if old[key] {
							looked++
						}
						return old[key]
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				rec, token := draft("ann", time.Now())
				if _, err := s.Save(ctx, rec); err != nil {
					t.Errorf("the sign-in: %v", err)
				}
				load(t, s, token)
				if looked == 0 {
					t.Error("it did not look at the old ones")
				}
				if n := len(entries(t, p, s, "ann")); n != 65 {
					t.Errorf("the index has %d entries; want 65", n)
				}
			})
		})
	}
}

// A name that a client chose never becomes a key as it is.
func TestKeys(t *testing.T) {
	s := newStore(newPlace(time.Now), time.Now)
	id := session.ID("a token")
	if got := s.Key(id); got != "p:"+id {
		t.Errorf("Key = %q", got)
	}
	for _, odd := range []string{"", "user:x", "a b\n", strings.Repeat("x", 10_000)} {
		for what, key := range map[string]string{"ID": s.Key(odd), "user": s.UserKey(odd)} {
			if len(key) > 60 || odd != "" && strings.Contains(key, odd) {
				t.Errorf("the key of %s %.20q is %.80q", what, odd, key)
			}
		}
	}
}
