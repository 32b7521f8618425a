package hdfsstore

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

func init() { session.Register("hdfs", open) }

// The times of the check that Open begins with.
const (
	firstCheck = 10 * time.Second
	nextCheck  = 250 * time.Millisecond
)

const (
	namenodePort = "8020"
	cleanEvery   = time.Hour
)

func open(ctx context.Context, u *url.URL) (session.Store, error) {
	addrs, root, opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	s, err := New(addrs, root, opts)
	if err != nil {
		return nil, err
	}
	one, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	switch err := s.Check(one); {
	case errors.Is(err, session.ErrConfig):
		s.Close()
		return nil, err
	case err != nil:
		slog.Warn("session: hdfs is not ready yet", "error", err)
		s.checkLater()
	}
	return s, nil
}

// parseURL reads hdfs://host:port,host:port/root?parameters.
func parseURL(u *url.URL) (addrs []string, root string, opts *Options, err error) {
	// What looks like a password must not be repeated.
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@/") {
		return nil, "", nil, configError("the URL cannot be read; write it as hdfs://namenode:8020/user/app/sessions")
	}
	if u.User != nil {
		return nil, "", nil, configError("the URL has a user before the host; write ?user=NAME, and no password: HDFS knows none")
	}
	p := session.NewParams(u)
	opts = &Options{
		User:              p.String("user", ""),
		Clients:           p.Int("clients", 0),
		Replication:       p.Int("replication", 0),
		Timeout:           p.Duration("timeout", 0),
		MaxData:           p.Int("max_data", 0),
		CleanEvery:        p.Duration("clean", cleanEvery),
		DatanodeHostnames: p.Bool("datanode_hostnames"),
		Protection:        p.String("protection", ""),
	}
	k := Kerberos{
		Principal: p.String("principal", ""), Keytab: p.String("keytab", ""), Cache: p.String("ccache", ""),
		Config: p.String("krb5_conf", ""), Service: p.String("service", ""),
	}
	if k != (Kerberos{}) {
		opts.Kerberos = &k
	}
	hosts := p.All("addr")
	if err := p.Err(); err != nil {
		return nil, "", nil, err
	}
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), hosts...)
	}
	for _, host := range hosts {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host += ":" + namenodePort
		}
		addrs = append(addrs, host)
	}
	return addrs, u.Path, opts, nil
}

// checkAddr tells whether addr is a host and a port, IPv6 in brackets.
func checkAddr(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	n, portErr := strconv.ParseUint(port, 10, 16)
	return err == nil && portErr == nil && n > 0 && host != "" && !strings.ContainsAny(host, "/ @[]")
}

// checkLater checks the place as soon as it answers.
func (s *Store) checkLater() {
	s.stop = later.Until(nextCheck, func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, firstCheck)
		defer cancel()
		err := s.Check(ctx)
		if errors.Is(err, session.ErrConfig) {
			slog.Error("session: hdfs: sessions cannot be kept there", "error", err)
			return true
		}
		return err == nil
	})
}
