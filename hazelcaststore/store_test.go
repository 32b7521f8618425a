package hazelcaststore_test

import (
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/storetest"
)

// onFakes are places on two members in this process, whose clock moves with the
// store's. Handles begin with different members.
func onFakes(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	conf := sound
	conf.now = clock.Now
	f := newFake(t, conf)
	addrs := []string{f.member(), f.member()}
	b := onMembers(addrs, hazelcaststore.Options{})(t)
	prefix := newPrefix()
	b.Open = func() session.Store {
		return newStore(t, addrs, hazelcaststore.Options{Prefix: prefix, Now: clock.Now})
	}
	b.Advance = clock.Advance
	return b
}

// onFakesOneDown are places on two members, the first of which is down.
func onFakesOneDown(t *testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	conf := sound
	conf.now = clock.Now
	f := newFake(t, conf)
	down := faults.NewProxy(t, f.member())
	down.Cut()
	addrs := []string{down.Addr, f.member()}
	return storetest.Backend{
		Open:    func() session.Store { return newStore(t, addrs, hazelcaststore.Options{Now: clock.Now}) },
		Advance: clock.Advance,
	}
}

func TestStore(t *testing.T) {
	t.Run("two members", func(t *testing.T) { storetest.Run(t, onFakes) })
	t.Run("two members, one down", func(t *testing.T) { storetest.Run(t, onFakesOneDown) })
}

func TestStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, onFakes) }

// What each call costs.
func TestRoundTrips(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{})
	if _, err := s.Load(t.Context(), session.NewToken()); err == nil {
		t.Fatal("a session out of nothing")
	}
	rec, token := draft("ann", time.Now())
	nobody, nobodysToken := draft("", time.Now())
	f.requests()
	for _, tt := range []struct {
		name string
		do   func()
		want string
	}{
		{"a sign-in", func() { save(t, s, rec) }, "get add add"},
		{"reading, also the user's index", func() { rec = load(t, s, token) }, "get get"},
		{"saving", func() { save(t, s, rec) }, "replace"},
		{"saving without a Tag", func() { rec.Version, rec.Tag = 2, nil; save(t, s, rec) }, "get get replace"},
		{"a touch", func() {
			if err := s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
				t.Error(err)
			}
		}, "get replace"},
		{"a token of the wrong shape", func() { s.Load(t.Context(), "x") }, ""},
		{"signing out", func() { s.Delete(t.Context(), rec.ID) }, "remove"},
		{"signing out everywhere", func() { s.DeleteUser(t.Context(), "ann", "") }, "get replace get"},
		{"an anonymous session", func() { save(t, s, nobody) }, "add"},
		{"reading it", func() { load(t, s, nobodysToken) }, "get"},
	} {
		tt.do()
		got := ""
		for i, r := range f.requests() {
			if i > 0 {
				got += " "
			}
			got += r
		}
		if got != tt.want {
			t.Errorf("%s: %s; want %s", tt.name, got, tt.want)
		}
	}
}

// The members drop an entry two seconds after the record has expired, and a
// touch moves that.
func TestTimeToLive(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{})
	rec, token := create(t, s, "ann")
	near := func(what string, key string, want time.Duration) {
		t.Helper()
		if got := f.left(key); got > want || got < want-time.Minute {
			t.Errorf("%s lives for %v; want %v", what, got, want)
		}
	}
	const late = 2 * time.Second
	near("the record", s.Key(rec.ID), time.Hour+late)
	near("the index", s.UserKey("ann"), 8*time.Hour+time.Hour+late+time.Second)
	if err := s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	near("after a touch, the record", s.Key(rec.ID), 3*time.Hour+late)
	again := load(t, s, token)
	again.Expires = again.Expires.Add(24 * time.Hour)
	save(t, s, again)
	near("the record, until its Deadline,", s.Key(rec.ID), 8*time.Hour+late)
}

// After all members were down, or when one does not have the cache yet, it is
// created again.
func TestCacheIsCreatedAgain(t *testing.T) {
	f := newFake(t, sound)
	s := newStore(t, []string{f.member()}, hazelcaststore.Options{})
	_, token := create(t, s, "ann")
	f.forget()
	rec := load(t, s, token)
	f.forget()
	save(t, s, rec)
	f.forget()
	create(t, s, "ann")
	deleteUser(t, s, "ann", "", 2)
}
