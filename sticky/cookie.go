package sticky

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The affinity cookie: base64url of a version, a key's ID and a tag of the
// node's ID, 24 characters. The tag is made once per node and key and looked up
// after that. It can be collected, by asking often, but not made up, and an
// address or a number of nodes cannot be read from it.
const (
	cookieVersion = 1
	tagLen        = 16
	cookieLen     = 24 // base64 of 18 bytes
)

func cookieValue(key []byte, id string) string {
	mac := func(parts ...string) []byte {
		h := hmac.New(sha256.New, key)
		for _, p := range parts {
			h.Write([]byte(p))
		}
		return h.Sum(nil)
	}
	raw := make([]byte, 0, 2+tagLen)
	raw = append(raw, cookieVersion, mac("sticky key")[0])
	raw = append(raw, mac("sticky node\x00", string(rune(cookieVersion)), id)[:tagLen]...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// pin is what a cookie's value stands for.
type pin struct {
	node *node
	old  bool // of a key that is not the newest
}

func checkKeys(keys [][]byte) error {
	if len(keys) > 8 {
		return configErr("Keys has %d keys; drop the oldest, up to 8 are read", len(keys))
	}
	for i, k := range keys {
		if len(k) < 32 {
			return configErr("Keys: key %d has %d bytes; it takes at least 32 random ones: openssl rand -base64 32", i+1, len(k))
		}
		for _, other := range keys[:i] {
			if bytes.Equal(k, other) {
				return configErr("Keys: key %d is given twice; remove one", i+1)
			}
		}
	}
	return nil
}

func randomKey() []byte {
	k := make([]byte, 32)
	rand.Read(k)
	return k
}

func (c *Cookie) check() error {
	switch {
	case c.Name != "" && (&http.Cookie{Name: c.Name, Value: "x"}).Valid() != nil:
		return configErr("Cookie.Name %q is no cookie's name; write letters, digits, - and _", c.Name)
	case strings.HasPrefix(strings.ToLower(c.Name), "__host-"), strings.HasPrefix(strings.ToLower(c.Name), "__secure-"):
		return configErr("Cookie.Name %q: leave out the prefix; it is put before the name over TLS", c.Name)
	case c.SameSite < 0, c.SameSite > http.SameSiteNoneMode:
		return configErr("Cookie.SameSite is %d; use http.SameSiteLaxMode, StrictMode or NoneMode", c.SameSite)
	case c.MaxAge < 0, c.MaxAge > 0 && c.MaxAge < time.Second:
		return configErr("Cookie.MaxAge is %v; give at least a second, or 0 until the browser closes", c.MaxAge)
	}
	return nil
}

// jar knows the names of the affinity cookie and what stands around its value.
type jar struct {
	secure, plain string // names
	secureTail    string // attributes
	plainTail     string
	alwaysSecure  bool
	names         [2]string
}

func newJar(c Cookie) jar {
	name := c.Name
	if name == "" {
		name = "affinity"
	}
	age := ""
	if c.MaxAge > 0 {
		// Never Expires: a date that is computed once stands still (traefik
		// issue 13485).
		age = "; Max-Age=" + strconv.FormatInt(int64(c.MaxAge/time.Second), 10)
	}
	site, plainSite := "", "; SameSite=Lax"
	switch c.SameSite {
	case http.SameSiteStrictMode:
		site, plainSite = "; SameSite=Strict", "; SameSite=Strict"
	case http.SameSiteNoneMode:
		site = "; SameSite=None"
	default:
		site = "; SameSite=Lax"
	}
	tail := "; Path=/" + age + "; HttpOnly; Secure" + site
	if c.Partitioned {
		tail += "; Partitioned"
	}
	return jar{
		secure: "__Host-" + name, secureTail: tail,
		plain: name, plainTail: "; Path=/" + age + "; HttpOnly" + plainSite,
		alwaysSecure: c.Secure,
		names:        [2]string{"__Host-" + name, name},
	}
}

func (j *jar) name(tls bool) string {
	if tls || j.alwaysSecure {
		return j.secure
	}
	return j.plain
}

// set is the Set-Cookie line for this value.
func (j *jar) set(tls bool, value string) string {
	if tls || j.alwaysSecure {
		return j.secure + "=" + value + j.secureTail
	}
	return j.plain + "=" + value + j.plainTail
}

// look calls f with the value of each cookie of this name until it returns
// true. It allocates nothing.
func look(lines []string, name string, f func(value string) bool) {
	for _, line := range lines {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			k, v, _ := strings.Cut(strings.Trim(part, " \t"), "=")
			if k == name && f(v) {
				return
			}
		}
	}
}

// strip takes the affinity cookies out of the request to the node: its
// application has no use for them, and could log or leak them.
func (j *jar) strip(h http.Header) {
	lines := h["Cookie"]
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if !strings.Contains(line, j.plain+"=") { // both names end so
			continue
		}
		if line = stripLine(line, j.names); line != "" {
			lines[i] = line
			continue
		}
		lines = append(lines[:i], lines[i+1:]...)
		i--
	}
	if len(lines) == 0 {
		delete(h, "Cookie")
	} else {
		h["Cookie"] = lines
	}
}

func stripLine(line string, names [2]string) string {
	var b strings.Builder
	kept, rest, cut := 0, line, false
	for more := true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ";")
		part = strings.Trim(part, " \t")
		k, _, _ := strings.Cut(part, "=")
		if k == names[0] || k == names[1] || part == "" {
			cut = cut || part != ""
			continue
		}
		if kept++; kept > 1 {
			b.WriteString("; ")
		}
		b.WriteString(part)
	}
	if !cut {
		return line
	}
	return b.String()
}

// keepPrivate makes sure that no shared cache keeps an answer that sets the
// affinity cookie, or everybody is sent to one node. "public" would contradict
// it, and the headers for CDNs alone (RFC 9213) would overrule it.
func keepPrivate(h http.Header) {
	for _, cdn := range []string{"Cdn-Cache-Control", "Cloudflare-Cdn-Cache-Control", "Surrogate-Control"} {
		delete(h, cdn)
	}
	lines := h["Cache-Control"]
	var keep []string
	for _, line := range lines {
		for _, d := range directives(line) {
			name, arg, _ := strings.Cut(d, "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "no-store":
				return
			case "private":
				if arg == "" {
					return
				}
			case "public", "s-maxage":
			default:
				keep = append(keep, d)
			}
		}
	}
	h["Cache-Control"] = []string{strings.Join(append(keep, `private, no-cache="Set-Cookie"`), ", ")}
}

// directives splits a list at the commas that are not within quotes.
func directives(s string) []string {
	var out []string
	quoted, from := false, 0
	add := func(d string) {
		if d = strings.Trim(d, " \t"); d != "" {
			out = append(out, d)
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			add(s[from:i])
			from = i + 1
		}
	}
	add(s[from:])
	return out
}
