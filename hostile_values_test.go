package session_test

import (
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/distsession/session"
)

// A value that cannot be kept fails the commit before the response begins: the
// failure page, and nothing of the old record is lost.
func TestValuesThatCannotBeKept(t *testing.T) {
	type node struct{ Next *node }
	cycle := &node{}
	cycle.Next = cycle
	anything := session.NewKey[any]("any")
	update := session.NewKey[float64]("float")
	for _, c := range []struct {
		name, why string
		act       func(x *session.Session)
	}{
		{"a channel", "JSON has none", func(x *session.Session) { anything.Set(x, make(chan int)) }},
		{"a function", "JSON has none", func(x *session.Session) { anything.Set(x, func() {}) }},
		{"NaN", "JSON has none", func(x *session.Session) { anything.Set(x, math.NaN()) }},
		{"infinity", "JSON has none", func(x *session.Session) { anything.Set(x, math.Inf(1)) }},
		{"NaN out of Update", "as Set", func(x *session.Session) { update.Update(x, func(float64) float64 { return math.NaN() }) }},
		{"a cycle", "it would never end", func(x *session.Session) { anything.Set(x, cycle) }},
		{"a map whose keys are structs", "JSON has names", func(x *session.Session) { anything.Set(x, map[struct{ A int }]int{{1}: 1}) }},
		{"text that is not UTF-8", "encoding/json would change it in silence", func(x *session.Session) { anything.Set(x, "a\xffb") }},
		{"text that is not UTF-8, deep inside", "as above", func(x *session.Session) { anything.Set(x, []any{map[string]any{"a": "\xc0"}}) }},
		{"a name that is not UTF-8", "as above", func(x *session.Session) { anything.Set(x, map[string]int{"\xff": 1}) }},
		{"a user that is not UTF-8", "two users would become one", func(x *session.Session) { x.SetUser("al\xff") }},
		{"no user", "signing out is Destroy", func(x *session.Session) { x.SetUser("") }},
		{"a byte more than MaxData", "64 KiB by default", func(x *session.Session) { anything.Set(x, strings.Repeat("x", 64<<10)) }},
		{"8 MiB", "far more", func(x *session.Session) { anything.Set(x, strings.Repeat("x", 8<<20)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, nil)
			token := s.token(t, "/login?u=alice")
			s.get("/write?v=gold", with(token))
			s.store.reset()
			res := s.run(t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
				keyTheme.Set(x, "dark")
				c.act(x)
				io.WriteString(w, "saved")
				if x.Err() == nil {
					t.Error("Err is nil")
				}
			})
			if got := body(t, res); res.StatusCode != 500 || got != "Internal Server Error\n" || len(res.Cookies()) != 0 {
				t.Errorf("%s %q: %s", res.Status, got, c.why)
			}
			if n := s.store.writes(); n != 0 {
				t.Errorf("%d writes", n)
			}
			s.is(t, token, "alice", "gold!")
			s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				if v, ok := keyTheme.Get(x); ok {
					t.Errorf("half of the commit is there: %q", v)
				}
			})
		})
	}
}
