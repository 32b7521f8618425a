package hazelcaststore_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/storetest"
)

// places gives each place of one cluster a prefix of its own.
var places atomic.Int64

func newPrefix() string { return fmt.Sprintf("t%d:", places.Add(1)) }

// newStore opens a handle that the test closes. On a busy machine a second
// passes by itself.
func newStore(t testing.TB, members []string, opts hazelcaststore.Options) *hazelcaststore.Store {
	t.Helper()
	if opts.Timeout == 0 {
		opts.Timeout = 10 * time.Second
	}
	s, err := hazelcaststore.New(members, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// onMembers are places whose handles talk to one member each, by turns, so that
// what one writes is read through the other.
func onMembers(addrs []string, opts hazelcaststore.Options) func(*testing.T) storetest.Backend {
	return func(t *testing.T) storetest.Backend {
		clock := &storetest.Clock{}
		opts := opts
		opts.Prefix, opts.Now = newPrefix(), clock.Now
		turn := 0
		return storetest.Backend{
			Open: func() session.Store {
				turn++
				return newStore(t, addrs[turn%len(addrs):][:1], opts)
			},
			MaxData: 1_000_000,
			Advance: clock.Advance, // the members' own clocks stay: the store must not rest on them
		}
	}
}

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
