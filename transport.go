package session

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Transport carries the token in HTTP. An implementation may say how long a
// token it carries with MaxToken() int: a commit whose token is longer is
// ErrTooLarge.
type Transport interface {
	// Token returns what the client sent, "" if nothing usable.
	Token(r *http.Request) string

	// SetToken tells the client to hold token until expires; the zero time is
	// until the browser closes. It takes the place of a token that was set on w
	// before.
	SetToken(w http.ResponseWriter, r *http.Request, token string, expires time.Time)

	// ClearToken tells the client to forget its token.
	ClearToken(w http.ResponseWriter, r *http.Request)

	// Vary is the request header that Token reads: "Cookie", "Authorization".
	Vary() string
}

// CookieTransport carries the token in a cookie, HttpOnly always. The zero
// value is "__Host-session" with Path=/, Secure and SameSite=Lax.
//
// Only the exact name is read. If two cookies of that name differ, neither is:
// a sibling domain may have planted one, and a browser does not say which.
type CookieTransport struct {
	// Name; if "", it is "__Host-session", "__Secure-session" with a Domain or
	// another Path, and "session" if Insecure.
	Name string

	// Domain widens the cookie to subdomains. If "", it is for this host alone.
	Domain string

	// Path; if "", it is "/".
	Path string

	// SameSite; if 0, it is http.SameSiteLaxMode.
	SameSite http.SameSite

	// Partitioned gives each embedding site a cookie of its own (CHIPS).
	Partitioned bool

	// Insecure leaves out Secure: for development over plain http.
	Insecure bool

	// MaxChunks is 2 to split a token that is too long for one cookie over two,
	// of together 7 KiB: servers in front refuse more (nginx takes a header
	// line of 8 KiB). 0 and 1 do not split.
	MaxChunks int
}

const (
	// A browser ignores a cookie whose name and value take more than 4096 bytes
	// (RFC 6265bis, 5.6), and some count the attributes (RFC 6265, 6.1).
	maxCookie  = 4093
	maxCookies = 7 << 10 // of both chunks, with their names
	maxAttr    = 1024    // a longer attribute is ignored (RFC 6265bis, 5.6)

	// chunked begins the first chunk of two. No token contains a "~".
	chunked = "2~"
)

func (t CookieTransport) name() string {
	switch {
	case t.Name != "":
		return t.Name
	case t.Insecure:
		return "session"
	case t.Domain != "" || t.path() != "/":
		return "__Secure-session"
	}
	return "__Host-session"
}

func (t CookieTransport) second() string { return t.name() + ".2" }

func (t CookieTransport) path() string {
	if t.Path == "" {
		return "/"
	}
	return t.Path
}

// Token implements Transport.
func (t CookieTransport) Token(r *http.Request) string {
	first := oneCookie(r, t.name())
	rest, ok := strings.CutPrefix(first, chunked)
	if !ok {
		return first
	}
	second := oneCookie(r, t.second())
	if t.MaxChunks < 2 || second == "" {
		return ""
	}
	return rest + second
}

// oneCookie returns the value of the cookie of this name, "" if there is none
// or if there are several that differ.
func oneCookie(r *http.Request, name string) string {
	if v, ok := plainCookie(r.Header["Cookie"], name); ok {
		return v
	}
	cookies := r.CookiesNamed(name)
	if len(cookies) == 0 {
		return ""
	}
	for _, c := range cookies[1:] {
		if c.Value != cookies[0].Value {
			return ""
		}
	}
	return cookies[0].Value
}

// plainCookie is oneCookie for what browsers send, without the allocations of
// net/http's parser. ok is false where anything is unusual: then net/http
// decides.
func plainCookie(lines []string, name string) (value string, ok bool) {
	if len(lines) != 1 {
		return "", len(lines) == 0
	}
	n := 0
	for part := range strings.SplitSeq(lines[0], ";") {
		if n++; n > 100 {
			return "", false
		}
		part = strings.TrimLeft(part, " \t")
		v, ours := strings.CutPrefix(part, name)
		switch {
		case !ours:
			continue
		case v == "" || v[0] == ' ' || v[0] == '\t':
			return "", false
		case v[0] != '=':
			continue // a longer name
		}
		if v = v[1:]; value != "" || v == "" || !isPlainToken(v) {
			return "", false
		}
		value = v
	}
	return value, true
}

// isPlainToken tells whether s is made of what our tokens are made of.
func isPlainToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '~', c == '=':
		default:
			return false
		}
	}
	return true
}

// SetToken implements Transport.
func (t CookieTransport) SetToken(w http.ResponseWriter, r *http.Request, token string, expires time.Time) {
	if len(token) <= t.maxOne() || t.MaxChunks < 2 {
		t.set(w, t.name(), token, expires)
		t.clearSecond(w, r)
		return
	}
	cut := t.maxOne() - len(chunked)
	t.set(w, t.name(), chunked+token[:cut], expires)
	t.set(w, t.second(), token[cut:], expires)
}

// ClearToken implements Transport.
func (t CookieTransport) ClearToken(w http.ResponseWriter, r *http.Request) {
	t.unset(w, t.name())
	t.clearSecond(w, r)
}

// clearSecond clears a second chunk that belongs to an older, longer token.
func (t CookieTransport) clearSecond(w http.ResponseWriter, r *http.Request) {
	removeCookie(w.Header(), t.second())
	if len(r.CookiesNamed(t.second())) > 0 {
		t.unset(w, t.second())
	}
}

// version is the name of the cookie that goes with the session's, where the store
// answers from copies.
func (t CookieTransport) version() string { return t.name() + ".v" }

// Version implements VersionTransport.
func (t CookieTransport) Version(r *http.Request) string { return oneCookie(r, t.version()) }

// SetVersion implements VersionTransport.
func (t CookieTransport) SetVersion(w http.ResponseWriter, _ *http.Request, version string, expires time.Time) {
	t.set(w, t.version(), version, expires)
}

// ClearVersion implements VersionTransport.
func (t CookieTransport) ClearVersion(w http.ResponseWriter, _ *http.Request) {
	t.unset(w, t.version())
}

// Vary implements Transport.
func (t CookieTransport) Vary() string { return "Cookie" }

// MaxToken is the length of the longest token that the cookie, or its two
// chunks, can carry.
func (t CookieTransport) MaxToken() int {
	if t.MaxChunks < 2 {
		return t.maxOne()
	}
	names := len(t.name()) + len(t.second()) + len("==; ")
	return min(t.maxOne()-len(chunked)+t.maxOne()-len(".2"), maxCookies-names-len(chunked))
}

// maxOne is what one Set-Cookie carries beside its name and attributes.
func (t CookieTransport) maxOne() int {
	c := t.cookie(t.name(), "")
	c.Expires, c.MaxAge = time.Unix(maxMilli/1000, 0), int(maxLifetime/time.Second)
	return maxCookie - len(c.String())
}

func (t CookieTransport) cookie(name, value string) *http.Cookie {
	c := &http.Cookie{
		Name: name, Value: value, Path: t.path(), Domain: t.Domain,
		Secure: !t.Insecure, HttpOnly: true, SameSite: t.SameSite, Partitioned: t.Partitioned,
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	return c
}

func (t CookieTransport) set(w http.ResponseWriter, name, value string, expires time.Time) {
	c := t.cookie(name, value)
	if !expires.IsZero() {
		c.Expires = expires
		// Max-Age counts on the client's stop watch, not on its clock.
		c.MaxAge = max(1, int((time.Until(expires)+time.Second-1)/time.Second))
	}
	removeCookie(w.Header(), name)
	http.SetCookie(w, c)
}

func (t CookieTransport) unset(w http.ResponseWriter, name string) {
	c := t.cookie(name, "")
	c.MaxAge = -1
	removeCookie(w.Header(), name)
	http.SetCookie(w, c)
}

// removeCookie takes back a Set-Cookie of this name that was added before.
func removeCookie(h http.Header, name string) {
	lines := h["Set-Cookie"]
	if len(lines) == 0 {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.HasPrefix(line, name+"=") })
	if len(kept) == 0 {
		delete(h, "Set-Cookie")
		return
	}
	h["Set-Cookie"] = kept
}

// check refuses what net/http lets pass and browsers drop without a word.
func (t CookieTransport) check() error {
	name := t.name()
	lower := strings.ToLower(name) // browsers match the prefixes in any case
	bad := func(format string, args ...any) error {
		return configError("CookieTransport: "+format, args...)
	}
	switch {
	case !isToken(name) || len(name) > 64 || strings.Contains(name, "|"):
		return bad("Name %q is not a cookie's name; use up to 64 letters, digits and -_.", name)
	case hasPrefix(lower, "__secure-", "__host-", "__http-") && t.Insecure:
		return bad("Name %q promises Secure, but Insecure is set; leave Name empty or unset Insecure", name)
	case strings.HasPrefix(lower, "__host-") && (t.Domain != "" || t.path() != "/"):
		return bad("Name %q allows no Domain and no Path but /; use the prefix __Secure-", name)
	case t.SameSite == http.SameSiteNoneMode && t.Insecure:
		return bad("SameSite=None needs Secure; unset Insecure")
	case t.SameSite < 0 || t.SameSite > http.SameSiteNoneMode || t.SameSite == http.SameSiteDefaultMode:
		return bad("SameSite is %d; use Lax, Strict or None", t.SameSite)
	case t.Partitioned && t.Insecure:
		return bad("Partitioned needs Secure; unset Insecure")
	case t.MaxChunks < 0 || t.MaxChunks > 2:
		return bad("MaxChunks is %d; use 0, 1 or 2", t.MaxChunks)
	case t.path()[0] != '/' || len(t.Path) > maxAttr || strings.ContainsFunc(t.Path, func(c rune) bool { return c < ' ' || c > '~' || c == ';' }):
		return bad("Path %q is not a path; it begins with / and has no ; in it", t.Path)
	case t.Domain != "" && !isDomain(t.Domain):
		return bad("Domain %q is not a domain such as example.com; it has no scheme, no port and is no address", t.Domain)
	}
	return nil
}

func hasPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// isToken is the token of RFC 9110, 5.6.2.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c > '~' || strings.ContainsRune(`()<>@,;:\"/[]?={}`, c)
	})
}

func isDomain(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(c rune) bool {
				return c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
			}) {
			return false
		}
	}
	return true
}

// HeaderTransport carries the token in headers, for clients that are not
// browsers. The zero value reads "Authorization: Bearer …" (RFC 6750, 2.1) and
// answers with "Session-Token". An empty answer tells the client to forget its
// token.
type HeaderTransport struct {
	Request  string // if "", it is "Authorization"; its scheme is Bearer, other headers hold the token alone
	Response string // if "", it is "Session-Token"

	// Versions is the header, of responses and requests, that goes with the token
	// where the store answers from copies (see VersionTransport): a client that
	// sends back the last one that it got reads its own writes on every node. If
	// "", it is "Session-Version".
	Versions string
}

func (t HeaderTransport) request() string {
	if t.Request == "" {
		return "Authorization"
	}
	return http.CanonicalHeaderKey(t.Request)
}

func (t HeaderTransport) response() string {
	if t.Response == "" {
		return "Session-Token"
	}
	return t.Response
}

func (t HeaderTransport) versions() string {
	if t.Versions == "" {
		return "Session-Version"
	}
	return http.CanonicalHeaderKey(t.Versions)
}

// Token implements Transport. A header that stands there twice is none.
func (t HeaderTransport) Token(r *http.Request) string {
	lines := r.Header[t.request()]
	if len(lines) != 1 {
		return ""
	}
	if t.request() != "Authorization" {
		return lines[0]
	}
	scheme, token, _ := strings.Cut(lines[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimLeft(token, " ")
}

// SetToken implements Transport. When the token expires, a token of a
// client-side store says itself.
func (t HeaderTransport) SetToken(w http.ResponseWriter, _ *http.Request, token string, _ time.Time) {
	w.Header().Set(t.response(), token)
}

// ClearToken implements Transport.
func (t HeaderTransport) ClearToken(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(t.response(), "")
}

// Version implements VersionTransport. A header that stands there twice is none.
func (t HeaderTransport) Version(r *http.Request) string {
	if lines := r.Header[t.versions()]; len(lines) == 1 {
		return lines[0]
	}
	return ""
}

// SetVersion implements VersionTransport.
func (t HeaderTransport) SetVersion(w http.ResponseWriter, _ *http.Request, version string, _ time.Time) {
	w.Header().Set(t.versions(), version)
}

// ClearVersion implements VersionTransport.
func (t HeaderTransport) ClearVersion(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(t.versions(), "")
}

// Vary implements Transport.
func (t HeaderTransport) Vary() string { return t.request() }

// MaxToken is what a header line carries through the servers in front.
func (t HeaderTransport) MaxToken() int { return maxCookies }

func (t HeaderTransport) check() error {
	for _, name := range []string{t.request(), t.response(), t.versions()} {
		if !isToken(name) {
			return configError("HeaderTransport: %q is not a header's name", name)
		}
	}
	if hasPrefix(strings.ToLower(t.response()), "set-cookie", "authorization", "cookie") {
		return configError("HeaderTransport: Response cannot be %s; use a header of its own such as Session-Token", t.response())
	}
	switch v := t.versions(); {
	case hasPrefix(strings.ToLower(v), "set-cookie", "authorization", "cookie"), v == t.request(), v == http.CanonicalHeaderKey(t.response()):
		return configError("HeaderTransport: Versions cannot be %s; use a header of its own such as Session-Version", v)
	}
	return nil
}

// newTransport returns the transport of the options, checked.
func newTransport(opts *Options) (Transport, error) {
	t := opts.Transport
	switch v := t.(type) {
	case nil:
		t = CookieTransport{Insecure: opts.Insecure}
	case *CookieTransport:
		if v == nil {
			return nil, configError("Options.Transport is a nil *CookieTransport; leave it out")
		}
		t = *v
	case *HeaderTransport:
		if v == nil {
			return nil, configError("Options.Transport is a nil *HeaderTransport; leave it out")
		}
		t = *v
	}
	if c, ok := t.(CookieTransport); ok {
		if opts.Insecure {
			c.Insecure = true
		}
		t = c
	}
	if c, ok := t.(interface{ check() error }); ok {
		if err := c.check(); err != nil {
			return nil, err
		}
	}
	if vary := t.Vary(); !isToken(vary) {
		return nil, fmt.Errorf("%w: Options.Transport: Vary is %q; name the request header that Token reads", ErrConfig, vary)
	}
	return t, nil
}
