// Package hosts reads store URLs that name several servers:
//
//	scheme://[user:password@]host[:port][,host[:port]…]/path?addr=[::1]:port&username=…&password=env:…
//
// Its errors are session.ErrConfig and repeat nothing of the URL but the names
// and values of parameters.
package hosts

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/distsession/session"
)

// A URL is what a store's URL says.
type URL struct {
	Addrs              []string // host:port each, at least one
	Username, Password string   // both or none
	Path               string   // without slashes around it
}

// Read reads u, with port where a host has none. p are the parameters of u, of
// which the caller has asked for all others; name is the server's, for errors.
func Read(u *url.URL, p *session.Params, name, port string) (*URL, error) {
	fail := func(format string, args ...any) (*URL, error) {
		return nil, fmt.Errorf("%w: "+name+": "+format, append([]any{session.ErrConfig}, args...)...)
	}
	scheme := strings.ToLower(u.Scheme)
	// In a password that is not escaped "/" and "?" end the host, and the rest,
	// up to the "@", lands in what follows.
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return fail("the URL cannot be read; write it as %s://host:port,host:port, and escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)", scheme)
	}
	r := &URL{Username: p.String("username", ""), Password: string(p.Secret("password")), Path: strings.Trim(u.Path, "/")}
	hosts := p.All("addr") // for IPv6, which a list before the path cannot hold
	if err := p.Err(); err != nil {
		return nil, err
	}
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), hosts...)
	}
	for _, host := range hosts {
		addr, ok := address(host, port)
		if !ok {
			return fail("a host cannot be read; write host:port, with commas between several, and an IPv6 address as ?addr=[::1]:%s", port)
		}
		r.Addrs = append(r.Addrs, addr)
	}
	if len(hosts) == 0 {
		return fail("the URL names no host; write %s://localhost:%s", scheme, port)
	}
	if u.User != nil {
		if r.Username != "" || r.Password != "" {
			return fail("user or password stand both before the host and in the parameters; keep the parameters")
		}
		r.Username = u.User.Username()
		r.Password, _ = u.User.Password()
	}
	if (r.Username == "") != (r.Password == "") {
		return fail("user name and password belong together; write username=NAME and password=env:NAME or password=file:PATH")
	}
	return r, nil
}

// address returns host:port for a host with or without port, IPv6 in brackets.
func address(host, port string) (string, bool) {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":" + port
	}
	name, number, err := net.SplitHostPort(host)
	n, portErr := strconv.ParseUint(number, 10, 16)
	if err != nil || portErr != nil || n == 0 || name == "" || strings.ContainsAny(name, "/ @[]") {
		return "", false
	}
	return net.JoinHostPort(name, number), true
}

// Distinct returns addrs in lower case, or ErrConfig if one is no host:port or
// is named twice.
func Distinct(addrs []string, name string) ([]string, error) {
	seen := map[string]bool{}
	out := make([]string, len(addrs))
	for i, addr := range addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("%w: %s: a server is no host:port", session.ErrConfig, name)
		}
		out[i] = strings.ToLower(addr)
		if seen[out[i]] {
			return nil, fmt.Errorf("%w: %s: the server %s is named twice; name each once", session.ErrConfig, name, out[i])
		}
		seen[out[i]] = true
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s: no servers; name at least one as host:port", session.ErrConfig, name)
	}
	return out, nil
}
