package memcachedstore_test

import (
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/memcachedstore"
)

// What each call asks of the server, in this order but for what runs side by
// side.
func TestRoundTrips(t *testing.T) {
	f := newFake(t, fakeConf{})
	s := newStore(t, []string{f.Addr}, memcachedstore.Options{})
	rec, token := draft("ann", time.Now())
	nobody, nobodysToken := draft("", time.Now())
	verbs := func() string {
		var all []string
		for _, command := range f.commands() {
			verb, key, _ := strings.Cut(command, " ")
			switch {
			case key == s.UserKey("ann"):
				verb += " index"
			case key == s.Key(rec.ID) || key == s.Key(nobody.ID):
				verb += " record"
			}
			all = append(all, verb)
		}
		return strings.Join(all, ", ")
	}
	for _, tt := range []struct {
		what string
		do   func()
		want string
	}{
		{"a cart", func() { save(t, s, nobody) }, "add record"},
		{"reading it", func() { load(t, s, nobodysToken) }, "gets record"},
		{"a sign-in", func() { save(t, s, rec) }, "gets index, add index, add record"},
		{"the first reading", func() { rec = load(t, s, token) }, "gets record, gets index"},
		{"saving what was read", func() { save(t, s, rec) }, "cas record"},
		{"saving without a Tag", func() { rec.Version, rec.Tag = 2, nil; save(t, s, rec) }, "gets index, gets record, cas record"},
		{"a touch", func() { s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Second), rec.Expires.Add(time.Second)) }, "gets record, cas record"},
		{"a touch that moves nothing", func() { s.Touch(t.Context(), rec.ID, rec.Seen, rec.Expires) }, "gets record"},
		{"a list", func() { s.List(t.Context(), "ann")(func(_ session.Info, err error) bool { return err == nil }) }, "gets index, gets record"},
		{"signing out", func() { s.Delete(t.Context(), rec.ID) }, "delete record"},
		{"signing out everywhere", func() { s.DeleteUser(t.Context(), "ann", "") }, "gets index, cas index, gets record"},
		{"a token of a wrong shape", func() { s.Load(t.Context(), "x"+token) }, ""},
	} {
		tt.do()
		got := verbs()
		// The two gets of a session that was seen before come in any order.
		got = strings.Replace(got, "gets record, gets index, cas", "gets index, gets record, cas", 1)
		if got != tt.want {
			t.Errorf("%s: %s; want %s", tt.what, got, tt.want)
		}
	}
}
