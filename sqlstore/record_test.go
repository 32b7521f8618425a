package sqlstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/sqlstore"
)

func testBytes(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t)
	users := []string{"nul\x00", "nul", "nul\x00\x00", "\xff\xfe", "\xff", "ß", "ss", "Ø", "O", "a\u0308", "ä", "trailing ", "trailing", "trailing\t", "💥",
		strings.Repeat("u", 1024)}
	for _, user := range users {
		rec, token := p.record(user)
		rec.Device = "device of " + user[:min(len(user), 100)]
		save(t, s, rec)
		if got := load(t, s, token); got.User != user || got.Device != rec.Device {
			t.Errorf("user %q with device %q came back as %q, %q", user, rec.Device, got.User, got.Device)
		}
	}
	for _, user := range users {
		n := 0
		for info, err := range s.List(t.Context(), user) {
			if n++; err != nil || info.User != user {
				t.Errorf("List(%q) yields %+v, %v", user, info, err)
			}
		}
		if n != 1 {
			t.Errorf("List(%q) yields %d; want 1", user, n)
		}
		if n, err := s.DeleteUser(t.Context(), user, ""); n != 1 || err != nil {
			t.Errorf("DeleteUser(%q) = %d, %v; want 1", user, n, err)
		}
	}
}

// What a client sends in the place of an ID ends nothing and fails nothing.
func testForeignIDs(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t)
	rec, token := p.create(t, s, "ann")
	for _, id := range []string{"", "x", "nul\x00", "\xff\xfe", "' OR '1'='1", "%", "$1", "?", rec.ID + " ", rec.ID + "\x00",
		strings.ToLower(rec.ID), strings.Repeat("x", 300), strings.Repeat("x", 1<<20)} {
		if err := s.Delete(t.Context(), id); err != nil {
			t.Errorf("Delete(%.40q): %v", id, err)
		}
		wantErr(t, fmt.Sprintf("Touch(%.40q)", id), s.Touch(t.Context(), id, p.clock.Now(), p.clock.Now().Add(2*time.Hour)), session.ErrNotFound)
	}
	load(t, s, token)
	for _, id := range []string{"x", "nul\x00", "\xff\xfe", strings.Repeat("x", 255)} { // a wrapper's, say
		other, _ := p.record("")
		other.ID = id
		save(t, s, other)
		if err := s.Touch(t.Context(), id, p.clock.Now(), p.clock.Now().Add(2*time.Hour)); err != nil {
			t.Errorf("Touch(%.40q): %v", id, err)
		}
		_, err := s.Save(t.Context(), other)
		wantErr(t, fmt.Sprintf("a second create of %.40q", id), err, session.ErrConflict)
	}
}

func testTooLarge(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t)
	for _, tt := range []struct {
		why    string
		change func(*session.Record)
	}{
		{"the user", func(r *session.Record) { r.User = strings.Repeat("u", 1025) }},
		{"the device", func(r *session.Record) { r.Device = strings.Repeat("d", 1025) }},
		{"the ID", func(r *session.Record) { r.ID = strings.Repeat("i", 256) }},
		{"the values", func(r *session.Record) { r.Data = make([]byte, 64<<20+1) }},
	} {
		rec, _ := p.record("ann")
		tt.change(rec)
		_, err := s.Save(t.Context(), rec)
		wantErr(t, tt.why, err, session.ErrTooLarge)
	}
	if n, err := s.DeleteUser(t.Context(), strings.Repeat("u", 2000), ""); n != 0 || err != nil {
		t.Errorf("DeleteUser of a name that cannot be there = %d, %v", n, err)
	}
}

// A row that this package did not write is no session, and no 500 for ever.
func testDamagedRow(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t)
	rec, token := p.create(t, s, "ann")
	p.exec(t, p.db(t), "UPDATE "+p.table+" SET version = 0")
	_, err := s.Load(t.Context(), token)
	wantErr(t, "Load", err, session.ErrNotFound)
	if !strings.Contains(err.Error(), "version") {
		t.Errorf("the reason is not told: %v", err)
	}
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Error(err)
	}
}

// More sessions than one statement reads, or ends.
func testManySessions(t *testing.T, e *env) {
	const n = sqlstore.ListPage*2 + 7
	p := e.place(t)
	s := p.open(t)
	p.insert(t, n, "ann", time.Hour)
	p.insert(t, 3, "bob", time.Hour)
	seen := map[string]bool{}
	for info, err := range s.List(t.Context(), "ann") {
		if err != nil || seen[info.ID] {
			t.Fatalf("List yields %+v, %v", info, err)
		}
		seen[info.ID] = true
	}
	if len(seen) != n {
		t.Errorf("List yields %d; want %d", len(seen), n)
	}
	seen = map[string]bool{}
	for rec, err := range s.Scan(t.Context()) {
		if err != nil || seen[rec.ID] {
			t.Fatalf("Scan yields %+v, %v", rec, err)
		}
		seen[rec.ID] = true
	}
	if len(seen) != n+3 {
		t.Errorf("Scan yields %d; want %d", len(seen), n+3)
	}
	if ended, err := s.DeleteUser(t.Context(), "ann", ""); ended != n || err != nil {
		t.Errorf("DeleteUser = %d, %v; want %d", ended, err, n)
	}
	if left := p.number(t, p.db(t), "SELECT count(*) FROM "+p.table); left != 3 {
		t.Errorf("%d rows are left; want 3", left)
	}
}

// "Sign out everywhere" ends what a Renew makes meanwhile.
func testDeleteUserRenew(t *testing.T, e *env) {
	p := e.place(t)
	a, b := p.open(t), p.open(t)
	ctx := t.Context()
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		_, token := p.create(t, a, "ann")
		old := load(t, a, token)
		done := make(chan error, 2)
		go func() { // as the manager does it: create, claim, and undo
			renewed, _ := p.record("ann")
			_, err := a.Save(ctx, renewed)
			if err == nil {
				marker := &session.Record{ID: old.ID, Created: old.Created, Seen: old.Seen, Expires: old.Expires, Deadline: old.Deadline,
					Replaced: true, Version: old.Version}
				if _, err = a.Save(ctx, marker); errors.Is(err, session.ErrNotFound) {
					err = a.Delete(ctx, renewed.ID)
				}
			}
			done <- err
		}()
		go func() {
			_, err := b.DeleteUser(ctx, "ann", "")
			done <- err
		}()
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		for info, err := range b.List(ctx, "ann") {
			t.Fatalf("round %d: a session survived: %+v, %v", i, info, err)
		}
	}
}
