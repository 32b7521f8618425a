package shop_test

import (
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/examples/internal/shop"
)

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	phone   = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)

// serve starts a process of the shop and returns its address.
func serve(t *testing.T, store session.Store, name string) string {
	t.Helper()
	h, err := shop.New(store, "test:", shop.Options{Name: name, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// browser is a visitor. Its cookies are the host's, whatever the port.
type browser struct {
	t      *testing.T
	client *http.Client
	agent  string
}

func newBrowser(t *testing.T, agent string) *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &http.Client{Jar: jar}, agent}
}

// do sends a form, or asks for a page if there is none, and returns the status
// and the text of the page at the end of the redirects.
func (b *browser) do(u string, form url.Values, header ...string) (int, string) {
	b.t.Helper()
	method, body := "GET", ""
	if form != nil {
		method, body = "POST", form.Encode()
	}
	r, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("User-Agent", b.agent)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(page)
}

func (b *browser) get(u string) string {
	b.t.Helper()
	return b.ok(b.do(u, nil))
}

func (b *browser) post(u string, form ...string) string {
	b.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(form); i += 2 {
		v.Set(form[i], form[i+1])
	}
	return b.ok(b.do(u, v))
}

func (b *browser) ok(status int, page string) string {
	b.t.Helper()
	if status != http.StatusOK {
		b.t.Fatalf("status %d: %s", status, page)
	}
	return page
}

func (b *browser) cookie(u string) *http.Cookie {
	at, err := url.Parse(u)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range b.client.Jar.Cookies(at) {
		return c
	}
	return nil
}

var tags = regexp.MustCompile(`<[^>]*>|\s+`)

// has checks that the text of a page contains what is wanted, and not what
// comes after "not:".
func has(t *testing.T, page string, wants ...string) {
	t.Helper()
	text := html.UnescapeString(strings.Join(strings.Fields(tags.ReplaceAllString(page, " ")), " "))
	for _, want := range wants {
		unwanted, not := strings.CutPrefix(want, "not:")
		if strings.Contains(text, unwanted) == not {
			t.Errorf("want %q in the page:\n%s", want, text)
		}
	}
}

var idText = regexp.MustCompile(`class="id">([^<]*)<`)

func idIn(t *testing.T, page string) string {
	t.Helper()
	m := idText.FindStringSubmatch(page)
	if m == nil {
		t.Fatalf("no ID in the page:\n%s", page)
	}
	return m[1]
}

func TestJourneyOverTwoNodes(t *testing.T) {
	store := session.NewMemoryStore(nil)
	one, two := serve(t, store, "node-1"), serve(t, store, "node-2")
	b := newBrowser(t, firefox)

	page := b.get(one)
	has(t, page, "answered by node-1", "sessions in test:", "new: it began with this request", "Visits 1", "nobody is signed in")
	anonymous := idIn(t, page)
	if again := b.get(two); idIn(t, again) != anonymous {
		t.Error("the other node does not know the session")
	} else {
		has(t, again, "answered by node-2", "known:", "Visits 2")
	}

	has(t, b.post(one+"/cart/add", "product", "green"), "One more in your cart: Green tea.", "1 × Green tea", "Together €8.90")
	has(t, b.post(two+"/cart/add", "product", "green"), "2 × Green tea")
	has(t, b.get(one), "not:One more in your cart", "2 × Green tea", `{"green":2}`, "Visits 5")
	has(t, b.post(two+"/cart/add", "product", "cup"), "1 × Cup")
	has(t, b.post(two+"/cart/remove", "product", "cup"), "One less in your cart: Cup.", "not:1 × Cup")

	page = b.post(two+"/signin", "user", "  alice ")
	has(t, page, "Welcome, alice.", "Hello, alice", "User alice", "2 × Green tea", "Firefox on Linux this one")
	if idIn(t, page) == anonymous {
		t.Error("the ID stayed at sign-in")
	}
	has(t, b.post(one+"/signout"), "You are signed out", "nobody is signed in", "not:Green tea €17.80", "Nothing yet.")
	if store.Len() != 2 { // the new session, and the marker that SetUser left
		t.Errorf("%d records are left", store.Len())
	}
}

func TestRemember(t *testing.T) {
	u := serve(t, session.NewMemoryStore(nil), "n")
	for _, tt := range []struct {
		why, remember string
		persists      bool
	}{
		{"until the browser closes", "", false},
		{"for 30 days", "yes", true},
	} {
		b := newBrowser(t, firefox)
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, err := b.client.PostForm(u+"/signin", url.Values{"user": {"alice"}, "remember": {tt.remember}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		c := resp.Cookies()
		if len(c) != 1 || (c[0].MaxAge > 29*24*60*60) != tt.persists || c[0].Expires.IsZero() == tt.persists {
			t.Errorf("%s: %v", tt.why, c)
		}
		if page := b.get(u); strings.Contains(page, "in 30 days)") != tt.persists {
			t.Errorf("%s: the page says otherwise", tt.why)
		}
	}
}

func TestDevices(t *testing.T) {
	store := session.NewMemoryStore(nil)
	u := serve(t, store, "n")
	laptop, mobile, mallory := newBrowser(t, firefox), newBrowser(t, phone), newBrowser(t, "curl/8.5")
	laptop.post(u+"/signin", "user", "alice")
	mobileID := idIn(t, mobile.post(u+"/signin", "user", "alice", "remember", "yes"))
	page := laptop.get(u)
	has(t, page, "Firefox on Linux this one", "Safari on iPhone", "Sign out there")

	mallory.get(u)
	has(t, mallory.post(u+"/devices/signout", "id", mobileID), "Please sign in first.")
	has(t, mallory.post(u+"/devices/signout-others"), "Please sign in first.")
	mallory.post(u+"/signin", "user", "mallory")
	has(t, mallory.post(u+"/devices/signout", "id", mobileID), "That session is not one of yours")
	has(t, mobile.get(u), "Hello, alice")

	has(t, laptop.post(u+"/devices/signout", "id", mobileID), "Signed out: Safari on iPhone.", "not:Sign out there")
	has(t, mobile.get(u), "nobody is signed in", "new:")
	has(t, laptop.post(u+"/devices/signout", "id", mobileID), "That session is not one of yours, or has ended already.")

	mobile.post(u+"/signin", "user", "alice")
	newBrowser(t, phone).post(u+"/signin", "user", "alice")
	has(t, laptop.post(u+"/devices/signout-others"), "Signed out everywhere else: 2.", "Hello, alice")
	has(t, laptop.post(u+"/devices/signout-others"), "You are signed in nowhere else.")
	has(t, mobile.get(u), "nobody is signed in")
	has(t, mallory.get(u), "Hello, mallory")

	id := idIn(t, laptop.get(u))
	has(t, laptop.post(u+"/devices/signout", "id", id), "You are signed out")
}

func TestRefused(t *testing.T) {
	u := serve(t, session.NewMemoryStore(nil), "n")
	b := newBrowser(t, firefox)
	b.get(u)
	green := url.Values{"product": {"green"}}
	for _, tt := range []struct {
		why    string
		path   string
		form   url.Values
		header []string
		status int
		text   string
	}{
		{"another site's form, by Sec-Fetch-Site", "/cart/add", green, []string{"Sec-Fetch-Site", "cross-site"}, 403, "That came from another site"},
		{"another site's form, by Origin", "/cart/add", green, []string{"Origin", "https://evil.example"}, 403, "That came from another site"},
		{"another port's form", "/cart/add", green, []string{"Sec-Fetch-Site", "same-site"}, 403, "That came from another site"},
		{"no such product", "/cart/add", url.Values{"product": {"gold"}}, nil, 400, "There is no such product"},
		{"a form too long to read", "/cart/add", url.Values{"x": {strings.Repeat("x", 1<<20)}}, nil, 400, "There is no such product"},
		{"a GET changes nothing", "/cart/add", nil, nil, 405, "Method Not Allowed"},
	} {
		status, page := b.do(u+tt.path, tt.form, tt.header...)
		if status != tt.status {
			t.Errorf("%s: status %d", tt.why, status)
		}
		has(t, page, tt.text)
	}
	has(t, b.get(u), "Nothing yet.", "Visits 2")
	if status, _ := b.do(u+"/cart/add", green, "Sec-Fetch-Site", "same-origin"); status != 200 {
		t.Errorf("the shop's own form: status %d", status)
	}
}

func TestNames(t *testing.T) {
	u := serve(t, session.NewMemoryStore(nil), "n")
	b := newBrowser(t, firefox)
	for _, name := range []string{"", "   ", strings.Repeat("x", 41), "a\x00b", "a\nb", "\xff\xfe"} {
		has(t, b.post(u+"/signin", "user", name), "Please give a name", "nobody is signed in")
	}
	page := b.post(u+"/signin", "user", `<script>alert("x")</script>`)
	if strings.Contains(page, "<script") || !strings.Contains(page, "Hello, &lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") {
		t.Error("the name was not escaped")
	}
}

func TestHeaders(t *testing.T) {
	u := serve(t, session.NewMemoryStore(nil), "n")
	for path, cookies := range map[string]int{"/": 1, "/style.css": 0, "/icon.svg": 0, "/nothing": 0} {
		resp, err := http.Get(u + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n := len(resp.Cookies()); n != cookies {
			t.Errorf("%s: %d cookies", path, n)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s: Content-Security-Policy %q", path, csp)
		}
	}
}

func TestSecure(t *testing.T) {
	h, err := shop.New(session.NewMemoryStore(nil), "test:", shop.Options{Secure: true})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if c := w.Result().Cookies(); len(c) != 1 || c[0].Name != "__Host-session" || !c[0].Secure {
		t.Errorf("cookies %v", c)
	}
}
