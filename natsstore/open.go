package natsstore

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"

	"github.com/distsession/session"
	"github.com/nats-io/nats.go"
)

func init() {
	session.Register("nats", openServers)
	session.Register("nats+tls", openServers)
	session.Register("nats+embedded", openNode)
}

// storeOptions reads what all schemes have.
func storeOptions(p *session.Params) (*Options, error) {
	o := &Options{Bucket: p.String("bucket", ""), MaxStale: p.Duration("max_stale", 0)}
	switch v := p.String("consistency", "strong"); v {
	case "strong":
	case "local":
		o.Consistency = Local
	default:
		return nil, configError("parameter consistency is %q; it takes strong or local", v)
	}
	return o, nil
}

// openNode opens nats+embedded://name@host:port?voter=…&voter=….
func openNode(ctx context.Context, u *url.URL) (session.Store, error) {
	if u.Opaque != "" || strings.Trim(u.Path, "/") != "" {
		return nil, configError("write nats+embedded://name@host:port?voter=host:port&voter=…, or nats+embedded:?dir=… for a node that is alone")
	}
	if _, has := u.User.Password(); has {
		return nil, configError("a node has no password; write nats+embedded://name@host:port and secret=env:NAME")
	}
	p := session.NewParams(u)
	o := &NodeOptions{
		Name:         u.User.Username(),
		Listen:       u.Host,
		Advertise:    p.String("advertise", ""),
		Voters:       p.All("voter"),
		Dir:          p.String("dir", ""),
		ClientListen: p.String("client", ""),
		Secret:       p.Secret("secret"),
	}
	so, err := storeOptions(p)
	if err != nil {
		return nil, err
	}
	switch v := p.String("role", "voter"); v {
	case "voter":
	case "cacher":
		o.Role = Cacher
	default:
		return nil, configError("parameter role is %q; it takes voter or cacher", v)
	}
	switch v := p.String("durability", "file"); v {
	case "file":
	case "file-sync":
		o.Durability = FileSync
	case "memory":
		o.Durability = Memory
	default:
		return nil, configError("parameter durability is %q; it takes memory, file or file-sync", v)
	}
	if tls := p.TLS(); len(tls.Certificates) > 0 || tls.RootCAs != nil {
		o.TLS = tls
	}
	if err := p.Err(); err != nil {
		return nil, err
	}
	n, err := StartNode(o)
	if err != nil {
		return nil, err
	}
	s, err := n.Open(so)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	s.ownsNode = true
	if o.alone() {
		// It waits for nobody: what asks it at once is to be answered. If it takes
		// longer, Ready tells.
		ctx, cancel := context.WithTimeout(ctx, firstCheck)
		defer cancel()
		_ = s.WaitReady(ctx)
	}
	return s, nil
}

// openServers opens nats://[user:password@]host[:port][,host[:port]…].
func openServers(ctx context.Context, u *url.URL) (session.Store, error) {
	// In a password that is not escaped "/" and "?" end the host, and the rest,
	// up to the "@", lands in what follows.
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return nil, configError("the URL cannot be read; write it as %s://host:port,host:port, and escape special characters (@ is %%40, / is %%2F, ? is %%3F, # is %%23)", u.Scheme)
	}
	p := session.NewParams(u)
	o, err := storeOptions(p)
	if err != nil {
		return nil, err
	}
	o.Replicas = p.Int("replicas", 0)
	switch v := p.String("storage", "file"); v {
	case "file":
	case "memory":
		o.Memory = true
	default:
		return nil, configError("parameter storage is %q; it takes file or memory", v)
	}
	opts := clientOptions(slog.Default())
	opts = append(opts, nats.Name("session"), nats.RetryOnFailedConnect(true))
	if strings.HasSuffix(strings.ToLower(u.Scheme), "+tls") {
		opts = append(opts, nats.Secure(p.TLS()))
	}
	signIn, err := credentials(p, u)
	if err != nil {
		return nil, err
	}
	opts = append(opts, signIn...)
	hosts := p.All("addr") // for IPv6, which a list before the path cannot hold
	if err := p.Err(); err != nil {
		return nil, err
	}
	servers, err := addresses(u, hosts)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(strings.Join(servers, ","), opts...)
	if err != nil {
		return nil, configError("the servers cannot be used: %w", err)
	}
	s, err := New(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.own = true
	return s, nil
}

const usualPort = "4222"

func addresses(u *url.URL, hosts []string) ([]string, error) {
	if u.Host != "" {
		hosts = append(strings.Split(u.Host, ","), hosts...)
	}
	for i, host := range hosts {
		if _, _, err := splitAddress(host); err != nil {
			host += ":" + usualPort
		}
		if _, _, err := splitAddress(host); err != nil {
			return nil, configError("a host cannot be read; write host:port, with commas between several, and an IPv6 address as ?addr=[::1]:%s", usualPort)
		}
		hosts[i] = "nats://" + host
	}
	switch {
	case len(hosts) == 0:
		return nil, configError("the URL names no host; write %s://localhost:%s", u.Scheme, usualPort)
	case strings.Trim(u.Path, "/") != "":
		return nil, configError("end the URL after the hosts and choose a bucket: ?bucket=sessions")
	}
	return hosts, nil
}

// credentials are named by parameters, or stand in the URL; there is one kind.
func credentials(p *session.Params, u *url.URL) ([]nats.Option, error) {
	var found []nats.Option
	name, password := p.String("username", ""), p.Secret("password")
	if u.User != nil {
		name = u.User.Username()
		if v, ok := u.User.Password(); ok {
			if password != nil {
				return nil, configError("a password stands both before the host and in the parameters; keep the parameter")
			}
			password = []byte(v)
		}
	}
	switch {
	case name != "" && len(password) > 0:
		found = append(found, nats.UserInfo(name, string(password)))
	case name != "" || len(password) > 0:
		return nil, configError("user name and password belong together; write username=NAME and password=env:NAME or password=file:PATH")
	}
	if token := p.Secret("token"); token != nil {
		found = append(found, nats.Token(string(token)))
	}
	if file := p.String("creds", ""); file != "" {
		found = append(found, nats.UserCredentials(file))
	}
	if secret := p.Secret("secret"); secret != nil {
		found = append(found, nats.UserInfo(Credentials(secret)))
	}
	if len(found) > 1 {
		return nil, configError("there is more than one way to sign in; keep one of username and password, token, creds and secret")
	}
	return found, nil
}
