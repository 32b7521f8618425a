package session_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/distsession/session"
)

// Save in the middle of a handler may have replaced the client's token. If the
// request fails after that, the client must be told the new one all the same:
// the old one is dead, and with neither the user would have no session.
func TestRequestThatFailsAfterSaveKeepsTheUserIn(t *testing.T) {
	unencodable := session.NewKey[chan int]("chan")
	for _, c := range []struct {
		name  string
		first func(x *session.Session)
		user  string
	}{
		{"a sign-in", func(x *session.Session) { x.SetUser("alice") }, "alice"},
		{"a renewal", func(x *session.Session) { x.Renew() }, ""},
		{"a first value", func(x *session.Session) { keyTheme.Set(x, "dark") }, ""},
	} {
		for _, then := range []string{"a value that cannot be encoded", "values that are too large", "a store that fails"} {
			t.Run(c.name+", then "+then, func(t *testing.T) {
				s := newSite(t, nil)
				u := newUserAgent(t, s)
				if c.name != "a first value" {
					u.get("/write?v=cart")
				}
				res := s.run(t, u.held("__Host-session"), func(w http.ResponseWriter, r *http.Request, x *session.Session) {
					c.first(x)
					if err := x.Save(r.Context()); err != nil {
						t.Fatal(err)
					}
					switch then {
					case "a value that cannot be encoded":
						unencodable.Set(x, make(chan int))
					case "values that are too large":
						keyCart.Set(x, fmt.Sprintf("%70000d", 1))
					default:
						s.store.set(away)
						keyCart.Set(x, "tea")
					}
					io.WriteString(w, "page")
				})
				s.store.set(nil)
				if res.StatusCode < 500 {
					t.Errorf("%s", res.Status)
				}
				u.keep(res)
				_, a := u.get("/read")
				if a.New || a.Replaced || a.User != c.user || c.name != "a first value" && a.Value != "cart!" {
					t.Errorf("%s, and then the browser is %+v; %d records in the store", res.Status, a, s.memory.Len())
				}
				if len(res.Cookies()) > 0 && res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("header %v", res.Header)
				}
			})
		}
	}
}

// Save, then Destroy, and the store is away when the record is to end: the
// answer is the failure page, and the browser is told nothing that is not so.
func TestDestroyThatFailsAfterSave(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(x *session.Session)
	}{
		{"a first value", func(x *session.Session) { keyTheme.Set(x, "dark") }},
		{"a sign-in", func(x *session.Session) { x.SetUser("alice") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			res := s.run(t, "", func(w http.ResponseWriter, r *http.Request, x *session.Session) {
				c.first(x)
				if err := x.Save(r.Context()); err != nil {
					t.Fatal(err)
				}
				s.store.set(away)
				x.Destroy()
				io.WriteString(w, "signed out")
			})
			s.store.set(nil)
			if got := body(t, res); res.StatusCode != 503 || got != "Service Unavailable\n" {
				t.Errorf("%s %q", res.Status, got)
			}
			if token := tokenOf(res); token != "" {
				if _, a := s.get("/read", with(token)); a.New {
					t.Error("the browser was told a token that opens nothing")
				}
			}
		})
	}
}
