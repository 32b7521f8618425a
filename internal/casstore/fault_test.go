package casstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
)

var errBroken = errors.New("the connection broke")

// lying does what it is asked and says that it did not.
type lying struct{ *place }

func (p lying) Put(ctx context.Context, it *casstore.Item, end time.Time) error {
	if err := p.place.Put(ctx, it, end); err != nil {
		return err
	}
	return casstore.ErrOther
}

// A place that refuses what it has done, as a grid does whose member died in
// between, fails nobody.
func TestNoThatWasDone(t *testing.T) {
	p := newPlace(time.Now)
	s, behind := newStore(p, time.Now), newStore(lying{p}, time.Now)
	rec, token := create(t, behind, "ann", time.Now())
	save(t, behind, load(t, behind, token))
	if got := load(t, s, token); got.Version != 2 {
		t.Errorf("version %d; want 2", got.Version)
	}
	if err := behind.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
		t.Errorf("Touch: %v", err)
	}
	deleteUser(t, behind, "ann", 1)
	gone(t, s, token, "after DeleteUser")
}

// The connection breaks, before or after the place has done what it was asked.
func TestBrokenConnection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		create  bool
		applied bool
		between int  // saves by others, before it looks
		touched bool // by others
		want    error
		version int64 // 0: there is none
		why     string
	}{
		{"update", false, true, 0, false, nil, 2, "it finds its own write"},
		{"update, then one by another", false, true, 1, false, nil, 3, "the trail goes back three writes"},
		{"update, then two", false, true, 2, false, nil, 4, "the trail goes back three writes"},
		{"update, then three", false, true, 3, false, errBroken, 5, "it cannot know, and a conflict would be replayed"},
		{"update that never arrived, then three", false, false, 3, false, session.ErrConflict, 4, "the trail has all of them, and not its own"},
		{"update that never arrived, then four", false, false, 4, false, errBroken, 5, "it cannot know, and a conflict would be replayed"},
		{"update, then a touch", false, true, 0, true, nil, 2, "a touch is no write"},
		{"update that never arrived", false, false, 0, false, nil, 2, "it is sent again"},
		{"update that never arrived, then a touch", false, false, 0, true, nil, 2, "it is sent again"},
		{"update that never arrived, then one by another", false, false, 1, false, session.ErrConflict, 2, "the other one won"},
		{"create", true, true, 0, false, nil, 1, "it finds its own write"},
		{"create, then two by others", true, true, 2, false, nil, 3, "the trail goes back three writes"},
		{"create, then three", true, true, 3, false, errBroken, 4, "it cannot know"},
		{"create that never arrived", true, false, 0, false, errBroken, 0, "it is not sent again: it may arrive yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlace(time.Now)
			s := newStore(p, time.Now)
			rec, token := draft("ann", time.Now())
			call := "add"
			if !tt.create {
				save(t, s, rec)
				rec, call = load(t, s, token), "replace"
			}
			p.set(func(c, key string, do func()) error {
				if c != call || key != s.Key(rec.ID) {
					do()
					return nil
				}
				if tt.applied {
					do()
				}
				p.set(nil)
				for range tt.between {
					save(t, s, load(t, s, token))
				}
				if tt.touched {
					if err := s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
						t.Error(err)
					}
				}
				return errBroken
			})
			saveWant(t, s, rec, tt.want)
			if tt.version == 0 {
				gone(t, s, token, tt.why)
				return
			}
			if v := load(t, s, token).Version; v != tt.version {
				t.Errorf("(%s) version %d; want %d", tt.why, v, tt.version)
			}
			saveWant(t, s, rec, session.ErrConflict) // what another saves from here is still a conflict
		})
	}
}

// A creation, or an index, whose answer was lost may arrive later than a sign-out
// that follows. So neither is sent twice, also if something that has expired
// stands in the place.
func TestCreationIsSentOnce(t *testing.T) {
	for name, key := range map[string]func(s *casstore.Store, rec *session.Record) string{
		"record": func(s *casstore.Store, rec *session.Record) string { return s.Key(rec.ID) },
		"index":  func(s *casstore.Store, rec *session.Record) string { return s.UserKey(rec.User) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(time.Now)
			s := newStore(p, time.Now)
			rec, token := draft("ann", time.Now())
			adds := 0
			p.set(func(call, k string, do func()) error {
				if call == "add" && k == key(s, rec) {
					adds++
					return errBroken // held up on its way
				}
				do()
				return nil
			})
			saveWant(t, s, rec, errBroken)
			if adds != 1 {
				t.Errorf("it was sent %d times", adds)
			}
			p.set(nil)
			gone(t, s, token, "after the failure")
		})
	}
	t.Run("over what has expired", func(t *testing.T) {
		now := time.Now()
		p := newPlace(time.Now) // its clock is behind
		s := newStore(p, func() time.Time { return now })
		rec, token := create(t, s, "", now)
		now = now.Add(2 * time.Hour)
		again, _ := draft("", now)
		again.ID = rec.ID
		p.once("add", s.Key(rec.ID), errBroken, func() {})
		saveWant(t, s, again, errBroken)
		save(t, s, again) // whoever is answered takes its place
		load(t, s, token)
	})
}

// Every answer, and then every request, of one call after the other is lost;
// nothing is reported that is not so.
func TestEveryCallBreaks(t *testing.T) {
	for _, applied := range []bool{true, false} {
		broke := true
		for nth := 0; broke; nth++ {
			p := newPlace(time.Now)
			s := newStore(p, time.Now)
			_, firstToken := create(t, s, "ann", time.Now())
			n := 0
			broke = false
			p.set(func(_, _ string, do func()) error {
				n++
				if n-1 != nth {
					do()
					return nil
				}
				broke = true
				if applied {
					do()
				}
				return errBroken
			})
			rec, token := draft("ann", time.Now())
			_, saveErr := s.Save(t.Context(), rec)
			ended, err := s.DeleteUser(t.Context(), "ann", rec.ID)
			p.set(nil)
			if saveErr == nil && load(t, s, token).User != "ann" {
				t.Errorf("call %d, applied %v: the session that was saved is not ann's", nth, applied)
			}
			_, loadErr := s.Load(t.Context(), firstToken)
			if over := errors.Is(loadErr, session.ErrNotFound); err == nil && !over || ended > 0 && !over {
				t.Errorf("call %d, applied %v: DeleteUser = %d, %v; the session: %v", nth, applied, ended, err, loadErr)
			}
			if !broke && nth < 7 {
				t.Errorf("both took %d calls; want more", n)
			}
		}
	}
}

// A session that is renewed while DeleteUser runs ends too: the new record is
// there before the old one becomes a marker.
func TestDeleteUserMeetsMarker(t *testing.T) {
	p := newPlace(time.Now)
	s := newStore(p, time.Now)
	_, oldToken := create(t, s, "ann", time.Now())
	old := load(t, s, oldToken)
	renewed, token := draft("ann", time.Now())
	p.once("get", s.UserKey("ann"), nil, func() { // DeleteUser has read the index
		save(t, s, renewed)
		old.User, old.Replaced, old.Data = "", true, nil
		save(t, s, old)
	})
	deleteUser(t, s, "ann", 1)
	gone(t, s, token, "the renewed session")
	if rec := load(t, s, oldToken); !rec.Replaced {
		t.Error("the marker is gone")
	}
}

// What is damaged, or somebody else's, is no session, and no reason to fail.
func TestDamage(t *testing.T) {
	p := newPlace(time.Now)
	s := scanned{newStore(p, time.Now), p}
	token := session.NewToken()
	for _, key := range []string{s.Key(session.ID(token)), s.UserKey("ann"), "other", "p:other"} {
		p.items[key] = held{value: []byte("junk"), tag: "junk"}
	}
	gone(t, s, token, "junk")
	rec, _ := draft("ann", time.Now())
	rec.ID = session.ID(token)
	saveWant(t, s, rec, session.ErrConflict)
	rec, _ = create(t, s, "ann", time.Now())
	n := 0
	for got, err := range s.Scan(t.Context()) {
		if n++; err != nil || got.ID != rec.ID {
			t.Errorf("Scan: %v, %v", got, err)
		}
	}
	if n != 1 {
		t.Errorf("Scan yields %d records; want 1", n)
	}
	deleteUser(t, s, "ann", 1)
}

// Scan tells when the place fails, and ends when the caller has seen enough.
func TestScan(t *testing.T) {
	p := newPlace(time.Now)
	s := scanned{newStore(p, time.Now), p}
	want := map[string]bool{}
	for range 250 { // more than are read at a time
		rec, _ := create(t, s, "", time.Now())
		want[rec.ID] = true
	}
	got := map[string]bool{}
	for rec, err := range s.Scan(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got[rec.ID] = true
	}
	if len(got) != len(want) {
		t.Errorf("Scan yields %d of %d sessions", len(got), len(want))
	}
	seen := 0
	for range s.Scan(t.Context()) {
		if seen++; seen == 120 {
			break
		}
	}
	if seen != 120 {
		t.Errorf("left after 120, it yields %d", seen)
	}
	p.set(func(_, _ string, do func()) error { return errBroken })
	var failures []error
	for rec, err := range s.Scan(t.Context()) {
		if rec != nil {
			t.Errorf("it yields %v", rec)
		}
		failures = append(failures, err)
	}
	if len(failures) != 1 || !errors.Is(failures[0], errBroken) {
		t.Errorf("of a place that fails: %v", failures)
	}
}

// Many sign-ins of one user at once all get their entry.
func TestSignInsAtOnce(t *testing.T) {
	p := newPlace(time.Now)
	s := newStore(p, time.Now)
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			rec, _ := draft("ann", time.Now())
			if _, err := s.Save(t.Context(), rec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	deleteUser(t, s, "ann", 24)
}
