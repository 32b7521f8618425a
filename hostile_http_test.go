package session_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/distsession/session"
)

// httpVector is one hostile request. Its texts are templates (see tokensOf).
type httpVector struct {
	Name, Why, Source string

	On      string   // the transport: "cookie", "chunks", "header" or "plain"
	Line    string   // the request line; "" is GET /read HTTP/1.1
	Headers []string // sent as they stand, a CR LF after each
	Body    string
	H2      bool // also over HTTP/2, where the client splits the cookies

	// Want is what the server makes of it: "none", "session" (the one of
	// .Good, or of .First and .Second), or the status of net/http's own answer.
	Want string

	// Asked, if set, is the tokens that the store is asked for.
	Asked []string
}

// hostileTokens is what the templates can use.
type hostileTokens struct {
	Good, Other   string // live sessions of two users
	Ended         string // a session that was signed out
	Unknown       string // well formed, never issued
	ID            string // the public ID of Good
	First, Second string // a token over two cookies
	OldFirst,     // the same session, one change earlier
	OldSecond,
	OtherFirst, // another user's
	OtherSecond string
}

// hostileSite is a site with the sessions that the vectors need.
type hostileSite struct {
	*site
	tokens hostileTokens
	plain  *httptest.Server
	h2     *httptest.Server
}

func newHostileSite(t *testing.T, on string) *hostileSite {
	h := &hostileSite{}
	h.tokens.Unknown = session.NewToken()
	switch on {
	case "cookie":
		h.site = newSite(t, nil)
	case "plain":
		h.site = newSite(t, &session.Options{Insecure: true})
	case "header":
		h.site = newSite(t, &session.Options{Transport: session.HeaderTransport{}})
	case "chunks":
		h.site = newSiteOver(t, newSealing(nil), &session.Options{Transport: session.CookieTransport{MaxChunks: 2}})
		long := strings.Repeat("v", 3600)
		first := h.cookies(t, "", "/login?u=alice")
		h.tokens.Good = first["__Host-session"]
		old := h.cookies(t, jar(first), "/write?v=old"+long+"old")
		h.tokens.OldFirst, h.tokens.OldSecond = old["__Host-session"], old["__Host-session.2"]
		next := h.cookies(t, jar(old), "/write?v=new"+long+"new")
		h.tokens.First, h.tokens.Second = next["__Host-session"], next["__Host-session.2"]
		other := h.cookies(t, jar(h.cookies(t, "", "/login?u=bob")), "/write?v="+long)
		h.tokens.OtherFirst, h.tokens.OtherSecond = other["__Host-session"], other["__Host-session.2"]
		for _, c := range []string{h.tokens.Good, h.tokens.First, h.tokens.Second, h.tokens.OldSecond, h.tokens.OtherSecond} {
			if c == "" {
				t.Fatal("the tokens are not split as the vectors need it")
			}
		}
	default:
		t.Fatalf("no transport %q", on)
	}
	if on != "chunks" {
		h.tokens.Good, h.tokens.ID = h.issue(t, on, "alice")
		h.tokens.Other, _ = h.issue(t, on, "bob")
		h.tokens.Ended, _ = h.issue(t, on, "carol")
		id := session.ID(h.tokens.Ended)
		if err := h.memory.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	h.plain = httptest.NewServer(h.handler)
	t.Cleanup(h.plain.Close)
	h.h2 = httptest.NewUnstartedServer(h.handler)
	h.h2.EnableHTTP2 = true
	h.h2.StartTLS()
	t.Cleanup(h.h2.Close)
	return h
}

// issue signs a user in and returns the token and the ID.
func (h *hostileSite) issue(t *testing.T, on, user string) (token, id string) {
	t.Helper()
	res, a := h.get("/login?u=" + user)
	if on == "header" {
		token = res.Header.Get("Session-Token")
	} else if c := res.Cookies(); len(c) == 1 {
		token = c[0].Value
	}
	if session.ID(token) != a.ID {
		t.Fatalf("signing in over %s gave %q", on, token)
	}
	return token, a.ID
}

// cookies visits path and returns what the client holds then.
func (h *hostileSite) cookies(t *testing.T, cookie, path string) map[string]string {
	t.Helper()
	held := map[string]string{}
	res, _ := h.get(path, "Cookie: "+cookie)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path[:10], res.Status)
	}
	for _, c := range res.Cookies() {
		held[c.Name] = c.Value
	}
	return held
}

// jar is the Cookie header of a client that holds these.
func jar(held map[string]string) string {
	var pairs []string
	for name, value := range held {
		pairs = append(pairs, name+"="+value)
	}
	return strings.Join(pairs, "; ")
}

// fill executes a template of a vector.
func (h *hostileSite) fill(t *testing.T, text string) string {
	t.Helper()
	tmpl, err := template.New("").Funcs(template.FuncMap{
		"repeat": func(n int, s string) string { return strings.Repeat(s, n) },
		"times":  func(n int) []struct{} { return make([]struct{}, n) },
		"fresh":  session.NewToken,
		"byte":   func(b int) string { return string([]byte{byte(b)}) },
		"upper":  strings.ToUpper,
		"head":   func(n int, s string) string { return s[:n] },
		"tail":   func(n int, s string) string { return s[n:] },
		"twin":   twin,
	}).Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, h.tokens); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// twin is another spelling of the bytes that a token stands for: the last of
// 43 characters carries two bits that no byte needs.
func twin(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + alphabet[last|1:last|1+1]
}

// raw sends a request as it stands and reads what comes back.
func (h *hostileSite) raw(t *testing.T, line string, headers []string, body string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", h.plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	var b strings.Builder
	b.WriteString(line + "\r\nHost: localhost\r\nConnection: close\r\n")
	if body != "" {
		fmt.Fprintf(&b, "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n", len(body))
	}
	for _, l := range headers {
		b.WriteString(l + "\r\n")
	}
	b.WriteString("\r\n" + body)
	go io.WriteString(c, b.String()) // a server that has read enough answers first
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body) // a server that refuses may reset
	res.Body.Close()
	res.Body = io.NopCloser(strings.NewReader(string(text)))
	return res
}

func TestHostileRequests(t *testing.T) {
	all := vectors[httpVector](t, "hostile/http")
	distinctNames(t, all, func(v httpVector) (string, string) { return v.Name, v.Why })
	sites := map[string]*hostileSite{}
	for _, v := range all {
		if sites[v.On] == nil {
			sites[v.On] = newHostileSite(t, v.On)
		}
	}
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			h := sites[v.On]
			headers := make([]string, len(v.Headers))
			for i, l := range v.Headers {
				headers[i] = h.fill(t, l)
			}
			line := h.fill(t, v.Line)
			if line == "" {
				line = "GET /read HTTP/1.1"
			}
			body := h.fill(t, v.Body)
			h.check(t, &v, "HTTP/1.1", func(path string) *http.Response {
				return h.raw(t, strings.Replace(line, "/read", path, 1), headers, body)
			})
			if v.H2 {
				h.check(t, &v, "HTTP/2", func(path string) *http.Response { return h.overH2(t, path, headers) })
			}
		})
	}
}

func (h *hostileSite) overH2(t *testing.T, path string, headers []string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", h.h2.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range headers {
		name, value, _ := strings.Cut(l, ": ")
		r.Header.Add(name, value)
	}
	res, err := h.h2.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if res.ProtoMajor != 2 {
		t.Fatalf("spoke %s", res.Proto)
	}
	return res
}

// check sends the request to a page that reads, and to one that writes.
func (h *hostileSite) check(t *testing.T, v *httpVector, proto string, send func(path string) *http.Response) {
	h.store.reset()
	res := send("/read")
	text := body(t, res)
	if v.Want != "none" && v.Want != "session" {
		if got := fmt.Sprint(res.StatusCode); got != v.Want {
			t.Errorf("%s: status %s, want %s: %s", proto, got, v.Want, v.Why)
		}
		if n := h.store.count("load", "save", "delete", "touch"); n != 0 || len(res.Cookies()) != 0 {
			t.Errorf("%s: %d calls of the store, cookies %v", proto, n, res.Cookies())
		}
		return
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", proto, res.Status)
	}
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%s: %v in %q", proto, err, text)
	}
	got := "session"
	if a.New {
		got = "none"
	}
	if got != v.Want {
		t.Fatalf("%s: %s, want %s: %s", proto, got, v.Want, v.Why)
	}
	if n := h.store.writes(); n != 0 || len(res.Header["Set-Cookie"]) != 0 || res.Header.Get("Session-Token") != "" {
		t.Errorf("%s: a read cost %d writes and set %v", proto, n, res.Header)
	}
	if n := h.store.count("load"); n > 1 {
		t.Errorf("%s: %d loads", proto, n)
	}
	if v.Asked != nil {
		var want []string
		for _, token := range v.Asked {
			want = append(want, h.fill(t, token))
		}
		if fmt.Sprint(h.store.tokens) != fmt.Sprint(want) {
			t.Errorf("%s: the store was asked for %.200q, want %.200q", proto, h.store.tokens, want)
		}
	}
	if v.Want == "session" {
		if a.User != "alice" {
			t.Errorf("%s: the session of %q", proto, a.User)
		}
		return
	}
	h.checkNone(t, &a, proto, res, send)
}

// checkNone holds "no session" to what it must mean.
func (h *hostileSite) checkNone(t *testing.T, a *answer, proto string, res *http.Response, send func(path string) *http.Response) {
	t.Helper()
	if a.User != "" || a.Value != "" || a.Replaced {
		t.Errorf("%s: no session, but it says %+v", proto, a)
	}
	// A refusal looks like a visit without anything to refuse.
	none := h.raw(t, "GET /read HTTP/1.1", nil, "")
	want, got := maps.Clone(none.Header), maps.Clone(res.Header)
	for _, hd := range []http.Header{want, got} {
		hd.Del("Date")
		hd.Del("Connection")
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: header %v, but %v for a visitor without a token", proto, got, want)
	}
	// A page that writes makes a new session, never the presented one.
	presented := h.store.tokens
	h.store.reset()
	res = send("/write")
	text := body(t, res)
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: writing: %s", proto, res.Status)
	}
	var wrote answer
	if err := json.Unmarshal([]byte(text), &wrote); err != nil {
		t.Fatal(err)
	}
	if wrote.Value != "!" || !wrote.New || wrote.ID == a.ID {
		t.Errorf("%s: writing gave %+v, reading gave ID %s", proto, wrote, a.ID)
	}
	for _, token := range presented {
		if session.ID(token) == wrote.ID || len(token) > 20 && strings.Contains(fmt.Sprint(res.Header), token) {
			t.Errorf("%s: the presented token %.100q was adopted", proto, token)
		}
		if rec, err := h.store.Store.Load(t.Context(), token); err == nil {
			t.Errorf("%s: the presented token %.100q opens %+v now", proto, token, rec)
		}
	}
	if n := h.store.count("save"); n != 1 {
		t.Errorf("%s: %d saves for one new session", proto, n)
	}
}
