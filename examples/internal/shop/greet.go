package shop

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
)

// An Example is the URL of a store to try.
type Example struct{ URL, About string }

// Examples are shown at the start, those whose schemes the program knows. One
// that imports more backends adds theirs.
var Examples = []Example{
	{"memory:", "in this process, gone when it ends"},
	{"redis://localhost:6379", "shared by every process that names it"},
	{"redis+cluster://h1:7001,h2:7002", "a Redis Cluster"},
	{"redis+sentinel://h1:26379,h2:26379/mymaster", "Redis with Sentinels"},
	{"cookie:?keys=env:SESSION_KEYS&irrevocable=true", "in the browser, encrypted; with\nexport SESSION_KEYS=$(openssl rand -base64 32)"},
	{"jwt:?alg=HS256&keys=env:SESSION_KEYS&iss=shop&aud=shop&irrevocable=true", "in the browser, signed; keys as above"},
}

// greet says where the shop is and how to change where its sessions are.
func greet(w io.Writer, c Config, at net.Addr) {
	host, _, _ := net.SplitHostPort(c.Addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(at.String())
	tcp, ok := at.(*net.TCPAddr)
	local := ok && tcp.IP.IsLoopback()
	fmt.Fprintf(w, "The shop is open at http://%s (this process: %s)\n", net.JoinHostPort(host, port), c.Name)
	switch {
	case c.Secure:
		fmt.Fprintln(w, "Its cookie is for https only: reach it through your TLS proxy.")
	case !local:
		fmt.Fprintln(w, "Its cookie is for plain http, which is for localhost only: put a TLS proxy in front and add -secure.")
	}
	fmt.Fprintf(w, "\nSessions are in %s\n", Redact(c.Store))
	fmt.Fprintln(w, "Swap the store with -store URL, or the environment variable SESSION_STORE:")
	known := session.Schemes()
	for _, e := range Examples {
		scheme, _, _ := strings.Cut(e.URL, ":")
		if slices.Contains(known, scheme) {
			fmt.Fprintf(w, "  -store '%s'\n        %s\n", e.URL, strings.ReplaceAll(e.About, "\n", "\n        "))
		}
	}
	fmt.Fprintln(w)
}

// Redact returns the URL of a store without what may be a secret: user and
// password, and every parameter but those that are plainly none. Of a URL that
// may have been cut in the wrong place, only the scheme is left.
func Redact(rawURL string) string {
	scheme, _, _ := strings.Cut(rawURL, ":")
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme == "" || strings.Contains(u.Path+u.Opaque+u.Fragment, "@") || u.User == nil && strings.Contains(u.RawQuery, "@") {
		if !slices.Contains(session.Schemes(), scheme) {
			return "…"
		}
		return scheme + ":…"
	}
	var b strings.Builder
	b.WriteString(scheme + ":")
	if strings.HasPrefix(rawURL, scheme+"://") {
		b.WriteString("//")
	}
	if u.User != nil {
		b.WriteString("…@")
	}
	b.WriteString(u.Host + u.Path + u.Opaque)
	before := "?"
	for param := range strings.SplitSeq(u.RawQuery, "&") {
		name, v, ok := strings.Cut(param, "=")
		if !ok {
			continue
		}
		if !slices.Contains([]string{"alg", "aud", "iss", "max", "prefix"}, name) {
			v = redactValue(v)
		}
		b.WriteString(before + name + "=" + v)
		before = "&"
	}
	return b.String()
}

func redactValue(escaped string) string {
	v, err := url.QueryUnescape(escaped)
	if err != nil {
		return "…"
	}
	_, notBool := strconv.ParseBool(v)
	_, notDuration := time.ParseDuration(v)
	switch {
	case notBool == nil, notDuration == nil, strings.HasPrefix(v, "env:"), strings.HasPrefix(v, "file:"):
		return v
	}
	if scheme, _, ok := strings.Cut(v, ":"); ok && slices.Contains(session.Schemes(), scheme) {
		return Redact(v) // the store behind another one
	}
	return "…"
}
