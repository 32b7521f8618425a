// Package hosturl reads the part of a store's URL that names servers and who
// signs in to them, as the stores with several servers have it in common:
//
//	scheme://[user:password@]host[:port][,host[:port]…]
//
// Its errors repeat nothing of the URL, which may hold a password.
package hosturl

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Whole refuses a URL that special characters have cut: in a password that is
// not escaped "/" and "?" end the host, and the rest, up to the "@", lands in
// what follows.
func Whole(u *url.URL) error {
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return fmt.Errorf("the URL cannot be read; write it as %s://host:port,host:port, and escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)", strings.ToLower(u.Scheme))
	}
	return nil
}

// Servers returns the servers as host:port, those of the parameter addr after
// those before the path: a list there cannot hold IPv6. port is that of a host
// without one.
func Servers(u *url.URL, addr []string, port string) ([]string, error) {
	hosts := addr
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), addr...)
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("the URL names no host; write %s://localhost:%s", strings.ToLower(u.Scheme), port)
	}
	servers := make([]string, len(hosts))
	for i, host := range hosts {
		server, ok := address(host, port)
		if !ok {
			return nil, fmt.Errorf("a host cannot be read; write host:port, with commas between several, and an IPv6 address as ?addr=[::1]:%s", port)
		}
		servers[i] = server
	}
	return servers, nil
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

// Credentials returns who signs in: those of the URL or, better, those of the
// parameters username and password, which are passed on.
func Credentials(u *url.URL, username, password string) (string, string, error) {
	if u.User != nil {
		if username != "" || password != "" {
			return "", "", errors.New("user or password stand both before the host and in the parameters; keep the parameters")
		}
		username = u.User.Username()
		password, _ = u.User.Password()
	}
	if (username == "") != (password == "") {
		return "", "", errors.New("user name and password belong together; write username=NAME and password=env:NAME or password=file:PATH")
	}
	return username, password, nil
}
