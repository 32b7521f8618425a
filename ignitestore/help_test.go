package ignitestore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

// draft returns a record that was not saved yet, and its token.
func draft(user string, now time.Time) (*session.Record, string) {
	token := session.NewToken()
	return &session.Record{
		ID: session.ID(token), User: user, Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(8 * time.Hour), Data: []byte(`{"n":1}`),
	}, token
}

func save(t testing.TB, s session.Store, rec *session.Record) {
	t.Helper()
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatalf("Save: %v", err)
	}
}

// create saves a new session and returns it with its token.
func create(t testing.TB, s session.Store, user string) (*session.Record, string) {
	t.Helper()
	rec, token := draft(user, time.Now())
	save(t, s, rec)
	return rec, token
}

func load(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

func gone(t testing.TB, s session.Store, token, when string) {
	t.Helper()
	if rec, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("%s: Load = %+v, %v; want ErrNotFound", when, rec, err)
	}
}

// failed checks an error that a visitor sees as 503.
func failed(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
		t.Errorf("%s: %v; want a failure of the store", what, err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

func deleteUser(t testing.TB, s session.UserDeleter, user, keep string, want int) {
	t.Helper()
	if n, err := s.DeleteUser(t.Context(), user, keep); n != want || err != nil {
		t.Errorf("DeleteUser(%q, %q) = %d, %v; want %d", user, keep, n, err, want)
	}
}

func contains(err error, text string) bool { return strings.Contains(err.Error(), text) }
