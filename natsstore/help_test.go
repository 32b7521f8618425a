package natsstore_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
)

// patience is how long something may take that happens by itself: an election
// takes up to nine seconds.
const patience = time.Minute

// draft returns a record that was not saved yet, and its token.
func draft(user string) (*session.Record, string) {
	token, now := session.NewToken(), time.Now()
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
	rec, token := draft(user)
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

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	servers.Wait(t, what, patience, func(context.Context) error {
		if ok() {
			return nil
		}
		return errors.New("not yet")
	})
}

// many skips a test of several nodes where servers are not wanted: it is as
// slow as they are.
func many(t testing.TB) {
	t.Helper()
	if testing.Short() || os.Getenv("SESSION_SERVERS") == "none" {
		t.Skip("three nodes are not started with -short or SESSION_SERVERS=none")
	}
}
