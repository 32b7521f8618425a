package session_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// This is a small browser, as far as RFC 6265bis, 5.6 and 5.7 and CHIPS say
// what a browser does with a Set-Cookie. It is stricter than they are: what a
// browser would drop or cut in silence is an error here.

type origin struct {
	host, path string
	secure     bool
}

type uaCookie struct {
	name, value, domain, path string
	hostOnly, secure, http    bool
	partitioned               bool
	sameSite                  string
	persistent                bool
	maxAge                    time.Duration
	gone                      bool // the cookie is being cleared
}

const uaMaxAge = 400 * 24 * time.Hour

// parseSetCookie returns the cookie that a browser keeps, or why it does not.
func parseSetCookie(line string, from origin) (*uaCookie, error) {
	if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return nil, errors.New("ignored: a control character (5.6, step 1)")
	}
	if len(line) > 4096 {
		return nil, fmt.Errorf("ignored by browsers that count the attributes: %d bytes (RFC 6265, 6.1)", len(line))
	}
	pair, attributes, _ := strings.Cut(line, ";")
	name, value, ok := strings.Cut(pair, "=")
	name, value = strings.Trim(name, " \t"), strings.Trim(value, " \t")
	switch {
	case !ok, name == "":
		return nil, errors.New("a cookie without a name (5.6, step 3)")
	case len(name)+len(value) > 4096:
		return nil, fmt.Errorf("ignored: name and value take %d bytes (5.6, step 5)", len(name)+len(value))
	}
	c := &uaCookie{name: name, value: value, domain: from.host, hostOnly: true, path: "/"}
	seen := map[string]bool{}
	var expires time.Time
	hasMaxAge := false
	for av := range strings.SplitSeq(attributes, ";") {
		if strings.TrimSpace(av) == "" {
			continue
		}
		key, v, _ := strings.Cut(av, "=")
		key, v = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(v)
		if len(v) > 1024 {
			return nil, fmt.Errorf("the attribute %s is ignored: %d bytes (5.6, step 6)", key, len(v))
		}
		if seen[key] {
			return nil, fmt.Errorf("the attribute %s twice", key)
		}
		seen[key] = true
		switch key {
		case "expires":
			t, err := time.Parse(http.TimeFormat, v)
			if err != nil {
				return nil, fmt.Errorf("Expires is ignored: %w", err)
			}
			expires, c.persistent = t, true
		case "max-age":
			n, err := strconv.Atoi(v)
			if err != nil {
				return nil, fmt.Errorf("Max-Age is ignored: %w", err)
			}
			c.maxAge, c.persistent, hasMaxAge = time.Duration(n)*time.Second, true, true
			c.gone = n <= 0
		case "domain":
			c.domain, c.hostOnly = strings.ToLower(strings.TrimPrefix(v, ".")), false
		case "path":
			if v == "" || v[0] != '/' {
				return nil, errors.New("Path is replaced by the default")
			}
			c.path = v
		case "secure":
			c.secure = true
		case "httponly":
			c.http = true
		case "partitioned":
			c.partitioned = true
		case "samesite":
			if !slices.Contains([]string{"Strict", "Lax", "None"}, v) {
				return nil, fmt.Errorf("SameSite=%s is not enforced", v)
			}
			c.sameSite = v
		default:
			return nil, fmt.Errorf("the unknown attribute %s is ignored", key)
		}
	}
	switch {
	case c.maxAge > uaMaxAge:
		return nil, fmt.Errorf("Max-Age is cut to 400 days (5.6.2)")
	case c.persistent && !hasMaxAge && !expires.After(time.Unix(1, 0)):
		c.gone = true
	}
	return c, c.store(from)
}

// store is the storage model of 5.7.
func (c *uaCookie) store(from origin) error {
	lower := strings.ToLower(c.name)
	switch {
	case !c.hostOnly && !domainMatch(from.host, c.domain):
		return fmt.Errorf("ignored: %s may not set a cookie for %s (step 10)", from.host, c.domain)
	case !c.hostOnly && !strings.Contains(c.domain, "."):
		return errors.New("ignored: a public suffix (step 9)")
	case c.secure && !from.secure:
		return errors.New("ignored: Secure from a plain origin (step 8)")
	case c.sameSite == "None" && !c.secure:
		return errors.New("ignored: SameSite=None without Secure (step 19)")
	case c.sameSite == "":
		return errors.New("SameSite is absent, and every browser has its own default")
	case strings.HasPrefix(lower, "__secure-") && !c.secure:
		return errors.New("ignored: __Secure- without Secure (step 20)")
	case strings.HasPrefix(lower, "__host-") && (!c.secure || !c.hostOnly || c.path != "/"):
		return errors.New("ignored: __Host- without Secure, or with a Domain or another Path (step 21)")
	case c.partitioned && !c.secure:
		return errors.New("ignored: Partitioned without Secure (CHIPS)")
	case !c.http:
		return errors.New("a script can read it (ASVS 5.0, 3.3.4)")
	}
	return nil
}

func domainMatch(host, domain string) bool {
	return host == domain || strings.HasSuffix(host, "."+domain) && net.ParseIP(host) == nil
}

// userAgent is a browser with a jar, in front of a site. Every Set-Cookie that
// it meets must be one that it keeps.
type userAgent struct {
	t    testing.TB
	site *site
	jar  map[string]*uaCookie
}

func newUserAgent(t testing.TB, s *site) *userAgent {
	return &userAgent{t: t, site: s, jar: map[string]*uaCookie{}}
}

func (u *userAgent) get(path string) (*http.Response, answer) {
	u.t.Helper()
	var lines []string
	if c := u.cookie(); c != "" {
		lines = append(lines, "Cookie: "+c)
	}
	res, a := u.site.get(path, lines...)
	u.keep(res)
	return res, a
}

func (u *userAgent) keep(res *http.Response) {
	u.t.Helper()
	for _, line := range res.Header["Set-Cookie"] {
		c, err := parseSetCookie(line, origin{host: "example.com", path: "/", secure: true})
		if err != nil {
			u.t.Errorf("%v: %.200s", err, line)
			continue
		}
		if c.gone {
			delete(u.jar, c.name)
			continue
		}
		u.jar[c.name] = c
	}
}

func (u *userAgent) cookie() string {
	var pairs []string
	for _, c := range u.jar {
		pairs = append(pairs, c.name+"="+c.value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "; ")
}

// held is what the browser holds of one cookie, "" for none.
func (u *userAgent) held(name string) string {
	if c := u.jar[name]; c != nil {
		return c.value
	}
	return ""
}

// The browser is a judge, so it is judged first.
func TestUserAgent(t *testing.T) {
	at := origin{host: "www.example.com", path: "/", secure: true}
	plain := origin{host: "www.example.com", path: "/"}
	long := strings.Repeat("x", 4100)
	for _, c := range []struct {
		name, line string
		from       origin
		kept       bool
		why        string
	}{
		{"the default", "__Host-session=x; Path=/; HttpOnly; Secure; SameSite=Lax", at, true, "what the library sets"},
		{"over plain http", "__Host-session=x; Path=/; HttpOnly; Secure; SameSite=Lax", plain, false, "step 8"},
		{"__Host- with a Domain", "__Host-session=x; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax", at, false, "step 21"},
		{"__host- with a Path", "__host-session=x; Path=/a; HttpOnly; Secure; SameSite=Lax", at, false, "prefixes in any case"},
		{"__Secure- without Secure", "__Secure-session=x; Path=/; HttpOnly; SameSite=Lax", at, false, "step 20"},
		{"__Secure- with a Domain", "__Secure-session=x; Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax", at, true, "allowed"},
		{"another site's Domain", "s=x; Path=/; Domain=example.org; HttpOnly; Secure; SameSite=Lax", at, false, "step 10"},
		{"too long", "s=" + long + "; Path=/; HttpOnly; Secure; SameSite=Lax", at, false, "step 5"},
		{"a long Path", "s=x; Path=/" + long[:1100] + "; HttpOnly; Secure; SameSite=Lax", at, false, "step 6"},
		{"a control character", "s=x\x01; Path=/; HttpOnly; Secure; SameSite=Lax", at, false, "step 1"},
		{"None without Secure", "s=x; Path=/; HttpOnly; SameSite=None", plain, false, "step 19"},
		{"Partitioned without Secure", "s=x; Path=/; HttpOnly; SameSite=Lax; Partitioned", plain, false, "CHIPS"},
		{"no SameSite", "s=x; Path=/; HttpOnly; Secure", at, false, "every browser has its own default"},
		{"no HttpOnly", "s=x; Path=/; Secure; SameSite=Lax", at, false, "scripts"},
		{"401 days", "s=x; Path=/; Max-Age=34646400; HttpOnly; Secure; SameSite=Lax", at, false, "cut to 400"},
		{"400 days", "s=x; Path=/; Max-Age=34560000; HttpOnly; Secure; SameSite=Lax", at, true, "the most"},
		{"no name", "=__Host-session=x; Path=/; HttpOnly; Secure; SameSite=Lax", at, false, "step 3"},
		{"cleared", "s=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax", at, true, "kept as a clearing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := parseSetCookie(c.line, c.from); (err == nil) != c.kept {
				t.Errorf("%v, kept %v: %s", err, c.kept, c.why)
			}
		})
	}
}
