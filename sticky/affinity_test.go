package sticky_test

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/distsession/session/sticky"
)

const users = 3000

// v4 is the address of user i.
func v4(i int) string {
	h := sticky.KeyOfString(fmt.Sprint("user", i))
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(h))
	return netip.AddrFrom4(b).String() + ":4711"
}

func ipProxy(t testing.TB, nodes ...sticky.Node) *sticky.Proxy {
	return newProxy(t, nodes, sticky.Options{By: sticky.ByIP(), Health: sticky.Health{Interval: -1, SlowStart: -1}, Transport: sayNode})
}

// where is the node of each user.
func where(p http.Handler) []string {
	at := make([]string, users)
	for i := range at {
		at[i] = serve(p, request("GET", v4(i))).Body.String()
	}
	return at
}

func ids(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint("node", i)
	}
	return out
}

// within tells whether n of users lies within four standard deviations of the
// share p.
func within(t *testing.T, what string, n int, p float64) {
	t.Helper()
	want := p * users
	if d := 4 * math.Sqrt(want*(1-p)); math.Abs(float64(n)-want) > d {
		t.Errorf("%s: %d users of %d; want %.0f ± %.0f", what, n, users, want, d)
	}
}

func TestByIPMovesNobodyElse(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		p := ipProxy(t, named(ids(n)...)...)
		before := where(p)
		if err := p.Remove("node1"); err != nil {
			t.Fatal(err)
		}
		after, moved := where(p), 0
		for i := range before {
			switch {
			case before[i] == "node1":
				moved++
				if after[i] == "node1" {
					t.Fatalf("%d nodes: user %d is still on the removed node", n, i)
				}
			case before[i] != after[i]:
				t.Fatalf("%d nodes: user %d moved from %s to %s, and neither was removed", n, i, before[i], after[i])
			}
		}
		within(t, fmt.Sprintf("%d nodes, one removed", n), moved, 1/float64(n))

		if err := p.Add(named("node1")[0]); err != nil {
			t.Fatal(err)
		}
		if again := where(p); !slices.Equal(before, again) {
			t.Errorf("%d nodes: the removed node came back, and its users did not", n)
		}
		if err := p.Add(named("one-more")[0]); err != nil {
			t.Fatal(err)
		}
		moved = 0
		for i, at := range where(p) {
			switch {
			case at == "one-more":
				moved++
			case at != before[i]:
				t.Fatalf("%d nodes: user %d moved from %s to %s, and neither was added", n, i, before[i], at)
			}
		}
		within(t, fmt.Sprintf("%d nodes, one added", n), moved, 1/float64(n+1))
	}
}

// The survivors share a dead node's users evenly, so none of them is next.
func TestByIPSpreadsTheUsersOfADeadNode(t *testing.T) {
	p := ipProxy(t, named("a", "b", "c", "d", "e")...)
	before := where(p)
	if err := p.Remove("c"); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, at := range where(p) {
		if before[i] == "c" {
			counts[at]++
		}
	}
	for _, id := range []string{"a", "b", "d", "e"} {
		within(t, "of c to "+id, counts[id], 1.0/20)
	}
}

func TestBalancersAgree(t *testing.T) {
	one, two := ipProxy(t, named("a", "b", "c")...), ipProxy(t, named("c", "a", "b")...)
	if !slices.Equal(where(one), where(two)) {
		t.Error("two balancers with the same nodes in another order disagree")
	}
}

func TestWeights(t *testing.T) {
	weigh := func(a, b, c float64) []sticky.Node {
		nodes := named("a", "b", "c")
		nodes[0].Weight, nodes[1].Weight, nodes[2].Weight = a, b, c
		return nodes
	}
	p := ipProxy(t, weigh(1, 1, 1)...)
	equal := where(p)
	if err := p.SetNodes(weigh(1, 1, 2)); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for i, at := range where(p) {
		counts[at]++
		if at != equal[i] && at != "c" {
			t.Fatalf("user %d moved from %s to %s, though only c has more weight", i, equal[i], at)
		}
	}
	within(t, "a", counts["a"], 0.25)
	within(t, "b", counts["b"], 0.25)
	within(t, "c", counts["c"], 0.5)
	if err := p.SetNodes(weigh(7, 7, 7)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(where(p), equal) {
		t.Error("weights 7, 7, 7 are not as 1, 1, 1")
	}
}

func TestByIPCountsNetworks(t *testing.T) {
	p := ipProxy(t, named(ids(50)...)...)
	node := func(addr string) string { return serve(p, request("GET", addr)).Body.String() }
	if a, b := node("[2001:db8:1:2::1]:1"), node("[2001:db8:1:2:ffff:ffff:ffff:ffff]:2"); a != b {
		t.Errorf("two addresses of one /64 are at %s and %s", a, b)
	}
	if a, b := node("192.0.2.7:1"), node("[::ffff:192.0.2.7]:2"); a != b {
		t.Errorf("an IPv4 address and its mapped form are at %s and %s", a, b)
	}
	v4s, v6s := map[string]bool{}, map[string]bool{}
	for i := range 64 {
		v4s[node(fmt.Sprintf("192.0.2.%d:1", i))] = true
		v6s[node(fmt.Sprintf("[2001:db8:1:%x::1]:1", i))] = true
	}
	if len(v4s) < 20 || len(v6s) < 20 { // 36 are expected
		t.Errorf("64 neighbours are on %d nodes by IPv4 and on %d by IPv6", len(v4s), len(v6s))
	}
}

func TestByKey(t *testing.T) {
	p := newProxy(t, named(ids(10)...), sticky.Options{
		By:     sticky.ByKey(func(r *http.Request) string { return r.Header.Get("Room") }),
		Health: unchecked, Transport: sayNode,
	})
	room := func(name, addr string) string {
		return serve(p, request("GET", addr, func(r *http.Request) { r.Header.Set("Room", name) })).Body.String()
	}
	seen := map[string]bool{}
	for i := range 64 {
		name := fmt.Sprint("room", i)
		at := room(name, v4(i))
		seen[at] = true
		if other := room(name, v4(i+1)); other != at {
			t.Errorf("%s is at %s and at %s", name, at, other)
		}
		if without := room("", v4(i)); without != room("", v4(i)) {
			t.Errorf("without a room, the address does not decide")
		}
	}
	if len(seen) != 10 {
		t.Errorf("64 rooms are on %d of 10 nodes", len(seen))
	}
	if w := serve(p, request("GET", v4(1))); w.Header()["Set-Cookie"] != nil {
		t.Errorf("ByKey set a cookie: %v", w.Header())
	}
}

func TestRankAllocatesNothing(t *testing.T) {
	for _, weighted := range []bool{false, true} {
		r := sticky.NewRanking(weighted, ids(20)...)
		forwarded := []string{"203.0.113.9, 198.51.100.1"}
		trusted := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
		cookies := []string{"theme=dark; affinity=AXLLoK72wvrHMV2yHYvvi0Dd; session=x"}
		var at string
		if n := testing.AllocsPerRun(100, func() {
			addr, _, _ := sticky.ClientOf("10.0.0.1:80", forwarded, trusted, 0)
			at = r.Of(sticky.KeyOfAddr(addr))
			at = r.Of(sticky.KeyOfString(sticky.Look(cookies, "affinity")))
		}); n != 0 {
			t.Errorf("weighted %v: %v allocations to find %s", weighted, n, at)
		}
	}
}

func BenchmarkRank(b *testing.B) {
	for _, n := range []int{3, 10, 100} {
		for _, weighted := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d nodes, weighted %v", n, weighted), func(b *testing.B) {
				r := sticky.NewRanking(weighted, ids(n)...)
				a := netip.MustParseAddr("192.0.2.1")
				b.ReportAllocs()
				for b.Loop() {
					r.Of(sticky.KeyOfAddr(a))
					a = a.Next()
				}
			})
		}
	}
}

func key(c byte) []byte {
	k := make([]byte, 32)
	for i := range k {
		k[i] = c + byte(i)
	}
	return k
}

func cookieProxy(t testing.TB, o sticky.Options, ids ...string) *sticky.Proxy {
	if o.Keys == nil {
		o.Keys = [][]byte{key(1)}
	}
	if o.Transport == nil {
		o.Transport = sayNode
	}
	o.Health = sticky.Health{Interval: -1, SlowStart: -1}
	return newProxy(t, named(ids...), o)
}

func withCookie(v string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Add("Cookie", v) }
}

func TestCookie(t *testing.T) {
	p := cookieProxy(t, sticky.Options{}, "a", "b", "c")
	good := sticky.CookieValue(key(1), "b")
	if len(good) != 24 || strings.Trim(good, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatalf("the cookie is %q; want 24 characters of base64url", good)
	}
	forged := good[:23] + map[bool]string{true: "A", false: "B"}[good[23] != 'A']
	for _, tt := range []struct {
		why     string
		cookie  string
		node    string // "": any
		set     bool
		refused int64
	}{
		{"a new user", "", "", true, 0},
		{"knows the node", "affinity=" + good, "b", false, 0},
		{"among others", "x=1; affinity=" + good + "; y=2", "b", false, 0},
		{"without spaces", "x=1;affinity=" + good, "b", false, 0},
		{"forged", "affinity=" + forged, "", true, 1},
		{"empty", "affinity=", "", true, 1},
		{"quoted is another text", `affinity="` + good + `"`, "", true, 1},
		{"of another site's key", "affinity=" + sticky.CookieValue(key(9), "b"), "", true, 1},
		{"of a node that is gone", "affinity=" + sticky.CookieValue(key(1), "z"), "", true, 1},
		{"another one's name", "my-affinity=" + good, "", true, 0},
		{"the name for TLS, without TLS", "__Host-affinity=" + good, "", true, 0},
		{"a planted one before", "affinity=" + forged + "; affinity=" + good, "b", false, 0},
	} {
		before := p.Status().RefusedCookies
		w := serve(p, request("GET", v4(1), func(r *http.Request) {
			if tt.cookie != "" {
				r.Header.Set("Cookie", tt.cookie)
			}
		}))
		if tt.node != "" && w.Body.String() != tt.node {
			t.Errorf("%s: served by %s; want %s", tt.why, w.Body, tt.node)
		}
		set := w.Header().Get("Set-Cookie")
		if want := "affinity=" + sticky.CookieValue(key(1), w.Body.String()) + "; Path=/; HttpOnly; SameSite=Lax"; tt.set && set != want || !tt.set && set != "" {
			t.Errorf("%s: Set-Cookie is %q; want %q (%v)", tt.why, set, want, tt.set)
		}
		if n := p.Status().RefusedCookies - before; n != tt.refused {
			t.Errorf("%s: %d refused; want %d", tt.why, n, tt.refused)
		}
	}
}

// Neither addresses nor order nor number of the nodes can be read from cookies.
func TestCookieTellsNothing(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{"10.0.0.1:80", "10.0.0.2:80", "a", "b"} {
		for k := range byte(3) {
			v := sticky.CookieValue(key(k), id)
			if seen[v[3:]] {
				t.Errorf("%s shares its tag with another", id)
			}
			seen[v[3:]] = true
			if w := sticky.CookieValue(key(k), id); v != w {
				t.Errorf("%s: %s and %s", id, v, w)
			}
		}
	}
}

func TestNewUsersSpread(t *testing.T) {
	p := cookieProxy(t, sticky.Options{}, "a", "b", "c", "d")
	counts := map[string]int{}
	for range users {
		counts[serve(p, request("GET", "192.0.2.1:1")).Body.String()]++ // all behind one address
	}
	for id, n := range counts {
		within(t, id, n, 0.25)
	}
}

func TestCookieKeyRotation(t *testing.T) {
	old, fresh := key(1), key(2)
	p := cookieProxy(t, sticky.Options{Keys: [][]byte{fresh, old}}, "a", "b")
	w := serve(p, request("GET", v4(1), withCookie("affinity="+sticky.CookieValue(old, "b"))))
	if w.Body.String() != "b" || !strings.HasPrefix(w.Header().Get("Set-Cookie"), "affinity="+sticky.CookieValue(fresh, "b")) {
		t.Errorf("an old key's cookie: %s, %v; want b and a new key's", w.Body, w.Header())
	}
	if s := p.Status(); s.OldCookies != 1 || s.RefusedCookies != 0 {
		t.Errorf("%d old, %d refused; want 1, 0", s.OldCookies, s.RefusedCookies)
	}
	w = serve(p, request("GET", v4(1), withCookie("affinity="+sticky.CookieValue(fresh, "b"))))
	if w.Body.String() != "b" || w.Header()["Set-Cookie"] != nil {
		t.Errorf("the new key's cookie: %s, %v", w.Body, w.Header())
	}
}

func TestCookieAttributes(t *testing.T) {
	value := sticky.CookieValue(key(1), "a")
	overTLS := func(r *http.Request) { r.TLS = &tls.ConnectionState{} }
	says := func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }
	local := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, tt := range []struct {
		why  string
		o    sticky.Options
		edit func(*http.Request)
		want string
	}{
		{"plain", sticky.Options{}, func(*http.Request) {}, "affinity=" + value + "; Path=/; HttpOnly; SameSite=Lax"},
		{"TLS", sticky.Options{}, overTLS, "__Host-affinity=" + value + "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"TLS in front, trusted", sticky.Options{Trusted: local}, says, "__Host-affinity=" + value + "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"TLS in front, said by anybody", sticky.Options{}, says, "affinity=" + value + "; Path=/; HttpOnly; SameSite=Lax"},
		{"always", sticky.Options{Cookie: sticky.Cookie{Secure: true}}, func(*http.Request) {}, "__Host-affinity=" + value + "; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"name, age, strict", sticky.Options{Cookie: sticky.Cookie{Name: "n", MaxAge: 3600e9, SameSite: http.SameSiteStrictMode}}, overTLS, "__Host-n=" + value + "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Strict"},
		{"in frames", sticky.Options{Cookie: sticky.Cookie{Partitioned: true, SameSite: http.SameSiteNoneMode}}, overTLS, "__Host-affinity=" + value + "; Path=/; HttpOnly; Secure; SameSite=None; Partitioned"},
		{"None needs Secure", sticky.Options{Cookie: sticky.Cookie{SameSite: http.SameSiteNoneMode}}, func(*http.Request) {}, "affinity=" + value + "; Path=/; HttpOnly; SameSite=Lax"},
	} {
		p := cookieProxy(t, tt.o, "a")
		w := serve(p, request("GET", "127.0.0.1:1", tt.edit))
		if got := w.Header().Get("Set-Cookie"); got != tt.want {
			t.Errorf("%s: %s; want %s", tt.why, got, tt.want)
		}
		name, _, _ := strings.Cut(tt.want, "=")
		if w := serve(p, request("GET", "127.0.0.1:1", tt.edit, withCookie(name+"="+value))); w.Header()["Set-Cookie"] != nil {
			t.Errorf("%s: set again: %v", tt.why, w.Header())
		}
	}
}

func TestCookieIsNotPassedOn(t *testing.T) {
	for _, tt := range []struct {
		why      string
		in, want []string
	}{
		{"alone", []string{"affinity=x"}, nil},
		{"first", []string{"affinity=x; session=y"}, []string{"session=y"}},
		{"last", []string{"session=y; affinity=x"}, []string{"session=y"}},
		{"between", []string{"a=1; affinity=x; b=2"}, []string{"a=1; b=2"}},
		{"both names, often", []string{"affinity=x; __Host-affinity=z; affinity=; s=1; affinity"}, []string{"s=1"}},
		{"several lines", []string{"affinity=x", "s=1", "__Host-affinity=y; t=2"}, []string{"s=1", "t=2"}},
		{"others are left as they are", []string{`my-affinity=x;b="c d" ; =;;`}, []string{`my-affinity=x;b="c d" ; =;;`}},
		{"a value that looks like it", []string{"a=affinity=x"}, []string{"a=affinity=x"}},
	} {
		var got []string
		p := cookieProxy(t, sticky.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			got = r.Header["Cookie"]
			return response(200, ""), nil
		})}, "a")
		r := request("GET", v4(1), func(r *http.Request) { r.Header["Cookie"] = slices.Clone(tt.in) })
		serve(p, r)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q is passed on as %q; want %q", tt.why, tt.in, got, tt.want)
		}
		if !slices.Equal(r.Header["Cookie"], tt.in) {
			t.Errorf("%s: the caller's request has changed: %q", tt.why, r.Header["Cookie"])
		}
	}
}

func TestCookieAndCaches(t *testing.T) {
	for _, tt := range []struct{ why, in, want string }{
		{"nothing said", "", `private, no-cache="Set-Cookie"`},
		{"public", "public, max-age=60", `max-age=60, private, no-cache="Set-Cookie"`},
		{"for shared caches", "s-maxage=60, max-age=5", `max-age=5, private, no-cache="Set-Cookie"`},
		{"private already", "private, max-age=60", "private, max-age=60"},
		{"Private in capitals", "Private", "Private"},
		{"private for one field only", `private="X-A", max-age=1`, `max-age=1, private, no-cache="Set-Cookie"`},
		{"no-store", "no-store", "no-store"},
		{"a comma within quotes", `no-cache="A, public", public`, `no-cache="A, public", private, no-cache="Set-Cookie"`},
	} {
		p := cookieProxy(t, sticky.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			res := response(200, "")
			if tt.in != "" {
				res.Header.Set("Cache-Control", tt.in)
			}
			res.Header.Set("CDN-Cache-Control", "max-age=1000")
			res.Header.Set("Surrogate-Control", "max-age=1000")
			return res, nil
		})}, "a")
		w := serve(p, request("GET", v4(1)))
		if got := w.Header().Get("Cache-Control"); got != tt.want {
			t.Errorf("%s: %q becomes %q; want %q", tt.why, tt.in, got, tt.want)
		}
		if w.Header()["Cdn-Cache-Control"] != nil || w.Header()["Surrogate-Control"] != nil {
			t.Errorf("%s: a CDN may keep the cookie: %v", tt.why, w.Header())
		}
		w = serve(p, request("GET", v4(1), withCookie("affinity="+sticky.CookieValue(key(1), "a"))))
		if got := w.Header().Get("Cache-Control"); got != tt.in || w.Header().Get("Cdn-Cache-Control") == "" {
			t.Errorf("%s: without a Set-Cookie, %q becomes %q", tt.why, tt.in, got)
		}
	}
}

func TestCookieNotOn304(t *testing.T) {
	status := 304
	p := cookieProxy(t, sticky.Options{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		return response(status, ""), nil
	})}, "a")
	if w := serve(p, request("GET", v4(1))); w.Header()["Set-Cookie"] != nil || w.Header()["Cache-Control"] != nil {
		t.Errorf("304: %v", w.Header())
	}
	for _, status = range []int{200, 201, 302, 404, 500} {
		if w := serve(p, request("GET", v4(1))); w.Header()["Set-Cookie"] == nil {
			t.Errorf("%d: no cookie", status)
		}
	}
}
