package ignitestore

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/later"
)

func init() {
	session.Register("ignite", open)
	session.Register("ignites", open)
}

const port = "10800"

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	addrs, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(addrs, opts)
	if err != nil {
		return nil, err
	}
	if s.stop, err = later.Check(ctx, "ignite", firstCheck, s.check, final); err != nil {
		return nil, errors.Join(configError("%w", err), s.Close())
	}
	return s, nil
}

// parseURL reads ignite://[user:password@]host[:port][,host[:port]…][/cache].
func parseURL(u *url.URL) ([]string, *Options, error) {
	p := session.NewParams(u)
	opts := &Options{
		Prefix:  p.String("prefix", ""),
		Timeout: p.Duration("timeout", 0),
		MaxItem: p.Int("max_item", 0),
	}
	if strings.EqualFold(u.Scheme, "ignites") {
		opts.TLS = p.TLS()
	}
	at, err := hosts.Read(u, p, "ignite", port)
	switch {
	case err != nil:
		return nil, nil, err
	case strings.Contains(at.Path, "/"):
		return nil, nil, configError("the path is the name of the cache; write %s://host:%s/sessions", strings.ToLower(u.Scheme), port)
	}
	opts.Cache, opts.Username, opts.Password = at.Path, at.Username, at.Password
	return at.Addrs, opts, nil
}
