package memcachedstore

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/later"
)

func init() {
	for scheme := range ports {
		session.Register(scheme, open)
	}
}

// ports are the schemes and their usual ports. An s at the end is TLS.
var ports = map[string]string{
	"memcached": "11211", "memcacheds": "11211",
	"infinispan": "11221", "infinispans": "11221",
}

const (
	firstCheck = time.Second // that Open takes at most
	nextCheck  = time.Second // at first, then ever longer
)

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	servers, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(servers, opts)
	if err != nil {
		return nil, err
	}
	if err := s.firstCheck(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// parseURL reads memcached://[user:password@]host[:port][,host[:port]…]. Its
// errors repeat nothing of the URL but the names and values of parameters.
func parseURL(u *url.URL) ([]string, *Options, error) {
	scheme := strings.ToLower(u.Scheme)
	port := ports[scheme]
	// In a password that is not escaped "/" and "?" end the host, and the rest,
	// up to the "@", lands in what follows.
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return nil, nil, configError("the URL cannot be read; write it as %s://host:port,host:port, and escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)", scheme)
	}
	p := session.NewParams(u)
	opts := &Options{
		Prefix:     p.String("prefix", ""),
		Replicated: strings.HasPrefix(scheme, "infinispan"),
		Timeout:    p.Duration("timeout", 0),
		PoolSize:   p.Int("pool_size", 0),
		MaxItem:    p.Int("max_item", 0),
		Username:   p.String("username", ""),
		Password:   string(p.Secret("password")),
	}
	if strings.HasSuffix(scheme, "s") {
		opts.TLS = p.TLS()
	}
	hosts := p.All("addr") // for IPv6, which a list before the path cannot hold
	if err := p.Err(); err != nil {
		return nil, nil, err
	}
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), hosts...)
	}
	servers := make([]string, len(hosts))
	for i, host := range hosts {
		addr, ok := address(host, port)
		if !ok {
			return nil, nil, configError("a host cannot be read; write host:port, with commas between several, and an IPv6 address as ?addr=[::1]:%s", port)
		}
		servers[i] = addr
	}
	switch {
	case len(servers) == 0:
		return nil, nil, configError("the URL names no host; write %s://localhost:%s", scheme, port)
	case strings.Trim(u.Path, "/") != "":
		return nil, nil, configError("there are no databases; end the URL after the hosts and choose a prefix: ?prefix=app1:")
	}
	return servers, opts, credentials(u, opts)
}

// credentials come from the URL or, better, from parameters that name them.
func credentials(u *url.URL, opts *Options) error {
	if u.User != nil {
		if opts.Username != "" || opts.Password != "" {
			return configError("user or password stand both before the host and in the parameters; keep the parameters")
		}
		opts.Username = u.User.Username()
		opts.Password, _ = u.User.Password()
	}
	if (opts.Username == "") != (opts.Password == "") {
		return configError("user name and password belong together; write username=NAME and password=env:NAME or password=file:PATH")
	}
	return nil
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

// firstCheck checks the servers if they answer, and otherwise goes on trying in
// the background, until Close. It fails if sessions must not be kept there.
func (s *Store) firstCheck(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	found, err := s.check(ctx)
	switch {
	case final(err):
		return configError("%w", err)
	case err != nil:
		slog.Warn("session: memcached does not answer yet", "error", err)
		s.checkLater()
		return nil
	}
	logFindings(found)
	return nil
}

func logFindings(found []error) {
	for _, err := range found {
		slog.Warn(err.Error())
	}
}

// final tells whether no further check will find anything better.
func final(err error) bool {
	return errors.Is(err, errUnfit) || errors.Is(err, errAuth)
}

// checkLater checks the servers as soon as they answer.
func (s *Store) checkLater() {
	s.stop = later.Until(nextCheck, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, firstCheck)
		defer cancel()
		found, err := s.check(ctx)
		switch {
		case final(err):
			slog.Error("session: memcached: " + err.Error())
			return true
		case err == nil:
			logFindings(found)
		}
		return err == nil
	})
}
