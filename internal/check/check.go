// Package check is what the tests of the stores ask of a session in few words.
package check

import (
	"errors"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Draft returns a record that was not saved yet, and its token.
func Draft(user string, now time.Time) (*session.Record, string) {
	token := session.NewToken()
	return &session.Record{
		ID: session.ID(token), User: user, Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(8 * time.Hour), Data: []byte(`{"n":1}`),
	}, token
}

// Save saves rec, or ends the test.
func Save(t testing.TB, s session.Store, rec *session.Record) {
	t.Helper()
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatalf("Save: %v", err)
	}
}

// Create saves a new session and returns it with its token.
func Create(t testing.TB, s session.Store, user string) (*session.Record, string) {
	t.Helper()
	rec, token := Draft(user, time.Now())
	Save(t, s, rec)
	return rec, token
}

// Load loads a live session, or ends the test.
func Load(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

// Gone checks that nothing stands behind the token.
func Gone(t testing.TB, s session.Store, token, when string) {
	t.Helper()
	if rec, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("%s: Load = %+v, %v; want ErrNotFound", when, rec, err)
	}
}

// Failed checks an error that a visitor sees as 503.
func Failed(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
		t.Errorf("%s: %v; want a failure of the store", what, err)
	}
}

// WantErr checks that err is want, or wraps it.
func WantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

// DeleteUser checks how many sessions of the user end.
func DeleteUser(t testing.TB, s session.UserDeleter, user, keep string, want int) {
	t.Helper()
	if n, err := s.DeleteUser(t.Context(), user, keep); n != want || err != nil {
		t.Errorf("DeleteUser(%q, %q) = %d, %v; want %d", user, keep, n, err, want)
	}
}
