package session_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

// Whatever stands in the Cookie header, a page that reads writes nothing and
// sets no cookie, and only the one good token is the session.
func FuzzCookieHeader(f *testing.F) {
	token := session.NewToken()
	for _, v := range vectors[httpVector](f, "hostile/http") {
		for _, line := range v.Headers {
			if value, ok := strings.CutPrefix(line, "Cookie: "); ok && len(value) < 500 && !strings.Contains(value, "{{repeat") {
				f.Add(strings.ReplaceAll(value, "{{.Good}}", "GOOD"))
			}
		}
	}
	f.Add("__Host-session=GOOD")
	f.Add("__Host-session=2~GOOD; __Host-session.2=GOOD")
	s := newSite(f, nil)
	token = s.token(f, "/login?u=alice")
	chunks := session.CookieTransport{MaxChunks: 2}
	f.Fuzz(func(t *testing.T, header string) {
		header = strings.ReplaceAll(header, "GOOD", token)
		r := httptest.NewRequest("GET", "/read", nil)
		r.Header["Cookie"] = []string{header}
		if joined := chunks.Token(r); len(joined) > len(header) {
			t.Errorf("%d bytes of header make a token of %d", len(header), len(joined))
		}
		s.store.reset()
		res, a := s.send(r)
		if res.StatusCode != http.StatusOK || s.store.writes() != 0 || len(res.Header["Set-Cookie"]) != 0 {
			t.Errorf("%s, %d writes, cookies %v", res.Status, s.store.writes(), res.Header["Set-Cookie"])
		}
		if a.New == (a.User == "alice") {
			t.Errorf("answered %+v", a)
		}
		if !a.New && !strings.Contains(header, "__Host-session") {
			t.Error("a session without its cookie")
		}
		if s.store.count("load") > 1 {
			t.Errorf("%d loads", s.store.count("load"))
		}
	})
}

// A token that the transport sets comes back from what a browser holds; if the
// chunks are changed in any way, what comes back is another text, for the seal
// to refuse, or none.
func FuzzChunks(f *testing.F) {
	f.Add(uint16(43), uint16(0), "", "")
	f.Add(uint16(3981), uint16(1), "2~", "")
	f.Add(uint16(3982), uint16(17), "x", "2~x")
	f.Add(uint16(7000), uint16(4000), "", "x")
	f.Add(uint16(7200), uint16(60000), "2~2~", "\x00")
	transport := session.CookieTransport{MaxChunks: 2}
	longest := transport.MaxToken()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	f.Fuzz(func(t *testing.T, size, at uint16, first, second string) {
		n := 1 + int(size)%longest
		var b strings.Builder
		for i := range n {
			b.WriteByte(alphabet[(i*7+int(size))%64])
		}
		token := b.String()
		w := httptest.NewRecorder()
		transport.SetToken(w, httptest.NewRequest("GET", "/", nil), token, time.Time{})
		lines := w.Header()["Set-Cookie"]
		if len(lines) == 0 || len(lines) > 2 {
			t.Fatalf("%d cookies for %d characters", len(lines), n)
		}
		r := httptest.NewRequest("GET", "/", nil)
		var held []*uaCookie
		for _, line := range lines {
			c, err := parseSetCookie(line, origin{host: "example.com", path: "/", secure: true})
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
			r.Header.Set("Cookie", strings.TrimPrefix(r.Header.Get("Cookie")+"; "+c.name+"="+c.value, "; "))
		}
		if total := len(r.Header.Get("Cookie")); total > 7<<10 {
			t.Errorf("%d bytes of cookies", total)
		}
		if got := transport.Token(r); got != token {
			t.Fatalf("%d characters came back as %d", n, len(got))
		}
		// One is lost, changed, or swapped.
		change := func(s, to string) string {
			i := int(at) % (len(s) + 1)
			return s[:i] + to + s[i:]
		}
		for _, cookies := range [][]string{
			{held[0].name + "=" + change(held[0].value, first)},
			{held[len(held)-1].name + "=" + change(held[len(held)-1].value, second)},
			{held[0].name + "=" + change(held[0].value, first), held[len(held)-1].name + "=" + change(held[len(held)-1].value, second)},
			{held[0].name + "=" + held[len(held)-1].value, held[len(held)-1].name + "=" + held[0].value},
		} {
			header := strings.Join(cookies, "; ")
			changed := header != r.Header.Get("Cookie")
			r := httptest.NewRequest("GET", "/", nil)
			r.Header["Cookie"] = []string{header}
			if got := transport.Token(r); got == token && changed && len(held) == 2 && first+second != "" && !harmless(first) && !harmless(second) {
				t.Errorf("%.80q… gives the token back", header)
			}
		}
		// The next, shorter token leaves nothing of this one behind.
		w = httptest.NewRecorder()
		transport.SetToken(w, r, "short", time.Time{})
		cleared := map[string]bool{}
		for _, line := range w.Header()["Set-Cookie"] {
			c, err := parseSetCookie(line, origin{host: "example.com", path: "/", secure: true})
			if err != nil {
				t.Fatal(err)
			}
			cleared[c.name] = c.gone
		}
		if got, want := cleared[held[len(held)-1].name], len(held) == 2; got != want {
			t.Errorf("of %d cookies the last is cleared: %v", len(held), got)
		}
	})
}

// harmless tells whether what was put into a Cookie header may leave the
// cookies as they are: nothing, white space, quotes around a value, or a cookie
// of its own.
func harmless(s string) bool { return s == "" || strings.ContainsAny(s, " \t\";") }
