package hazelcaststore

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/hosts"
	"github.com/distsession/session/internal/later"
)

func init() {
	session.Register("hazelcast", open)
	session.Register("hazelcasts", open) // with TLS
}

const (
	usualPort  = "5701"
	firstCheck = 2 * time.Second // that Open takes at most
)

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	addrs, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(addrs, opts)
	if err != nil {
		return nil, err
	}
	if s.stop, err = later.Check(ctx, "hazelcast", firstCheck, s.check, final); err != nil {
		return nil, errors.Join(configError("%w", err), s.Close())
	}
	return s, nil
}

// parseURL reads hazelcast://[user:password@]host[:port][,host[:port]…][/cache].
func parseURL(u *url.URL) ([]string, *Options, error) {
	p := session.NewParams(u)
	opts := &Options{
		Cluster:          p.String("cluster", ""),
		Prefix:           p.String("prefix", ""),
		Timeout:          p.Duration("timeout", 0),
		KeepAlive:        p.Duration("keep_alive", 0),
		MaxItem:          p.Int("max_item", 0),
		InsecureEviction: p.Bool("insecure_eviction"),
	}
	if strings.EqualFold(u.Scheme, "hazelcasts") {
		opts.TLS = p.TLS()
	}
	at, err := hosts.Read(u, p, "hazelcast", usualPort)
	if err != nil {
		return nil, nil, err
	}
	opts.Cache, opts.Username, opts.Password = at.Path, at.Username, at.Password
	return at.Addrs, opts, nil
}
