package natsstore

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	cluster       = "session" // the cluster's name
	user          = "session" // who signs in to it
	inProcessUser = "process"
	minSecret     = 32
	fileSync      = 10 * time.Second
	routePing     = 2 * time.Second // a route that answers nothing is cut after three
	routePings    = 3
	maxNameSize   = 64
)

// alone tells whether there is no cluster.
func (o *NodeOptions) alone() bool { return len(o.Voters) < 2 && o.Role == Voter }

// address is where the others reach this node.
func (o *NodeOptions) address() string {
	if o.Advertise != "" {
		return o.Advertise
	}
	return o.Listen
}

// check refuses what cannot work and fills defaults in.
func (o *NodeOptions) check() error {
	voters := make([]string, len(o.Voters))
	for i, v := range o.Voters {
		if _, _, err := splitAddress(v); err != nil {
			return configError("Voters: %q is no host:port", v)
		}
		if voters[i] = strings.ToLower(v); slices.Contains(voters[:i], voters[i]) {
			return configError("Voters: %s stands there twice; name each voter once", v)
		}
	}
	o.Voters = voters
	if o.Name == "" && o.alone() {
		o.Name = "node"
	}
	switch n := len(voters); {
	case n == 2:
		return configError("Voters: two are no cluster: when either is down the other has no majority, so two stop more often than one; name 1, 3 or 5, and let further nodes join as cachers")
	case n == 4 || n > 5:
		return configError("Voters: %d voters survive the loss of no more than %d do and make every change dearer; name 1, 3 or 5, and let further nodes join as cachers", n, min(n-1, 5))
	case o.Name == "" || len(o.Name) > maxNameSize || strings.ContainsFunc(o.Name, badName):
		return configError("Name is required and takes at most %d letters, digits, dots, dashes and underscores, different on every node", maxNameSize)
	case o.Role != Voter && o.Role != Cacher:
		return configError("Role is Voter or Cacher")
	case o.Role == Cacher && n < 3:
		return configError("a cacher joins 3 or 5 voters; name them in Voters")
	case o.Durability < File || o.Durability > Memory:
		return configError("Durability is File, FileSync or Memory")
	case o.Role == Voter && o.Durability != Memory && o.Dir == "":
		return configError("Dir is required, for Durability is %v; name a directory of this node's own, or choose Memory", o.Durability)
	case o.alone() && (o.Listen != "" || o.Advertise != ""):
		return configError("a voter that is alone listens to no other node; leave Listen and Advertise out, or name 3 or 5 Voters")
	case !o.alone() && o.Listen == "":
		return configError("Listen is required: the host:port on which the other nodes reach this one")
	}
	return o.checkNetwork()
}

func badName(c rune) bool {
	return c != '-' && c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
}

func (o *NodeOptions) checkNetwork() error {
	addrs := slices.Clone(o.Voters)
	for _, a := range []struct{ field, addr string }{{"Listen", o.Listen}, {"Advertise", o.Advertise}, {"ClientListen", o.ClientListen}} {
		if a.addr == "" {
			continue
		}
		if _, _, err := splitAddress(a.addr); err != nil {
			return configError("%s: %q is no host:port", a.field, a.addr)
		}
		if a.field != "ClientListen" {
			addrs = append(addrs, a.addr)
		}
	}
	own := slices.Contains(o.Voters, strings.ToLower(o.address()))
	local := !slices.ContainsFunc(addrs, func(a string) bool { return !loopback(a) })
	clientLocal := o.ClientListen == "" || loopback(o.ClientListen)
	switch {
	case !o.alone() && o.Role == Voter && !own:
		return configError("Voters does not name this voter as %s; name it as the others reach it, with Advertise if Listen is another address", o.address())
	case o.Role == Cacher && own:
		return configError("Voters names this cacher; leave it out, or make it a voter")
	case len(o.Secret) > 0 && len(o.Secret) < minSecret:
		return configError("Secret has %d bytes; it takes at least %d: openssl rand -base64 32", len(o.Secret), minSecret)
	case !o.alone() && !local && (len(o.Secret) == 0 || o.TLS == nil):
		return configError("Secret and TLS are both required, for an address is not loopback: whoever reaches the cluster's port could read and write every session")
	case o.ClientListen != "" && len(o.Secret) == 0:
		return configError("ClientListen takes a Secret, or whoever reaches the port could read and write every session")
	case !clientLocal && o.TLS == nil:
		return configError("ClientListen is not loopback and takes TLS")
	case o.TLS != nil && (len(o.TLS.Certificates) == 0 && o.TLS.GetCertificate == nil || o.TLS.RootCAs == nil):
		return configError("TLS lacks Certificates or RootCAs; a node shows its certificate to the others and asks for theirs")
	}
	return nil
}

func splitAddress(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@ ") {
		return "", 0, &net.AddrError{Err: "no host and port", Addr: addr}
	}
	return host, int(n), nil
}

// loopback tells whether an address cannot be reached from another machine. Of
// names only localhost is (RFC 6761, section 6.3).
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// server returns the options of the server that makes this node. password is
// what this process signs in with.
func (o *NodeOptions) server(password string) *server.Options {
	so := &server.Options{
		ServerName: o.Name,
		// A server that listens to no client does not start its cluster either
		// (Server.StartRouting waits for the client port): it gets a port of
		// loopback, and a password that only this process knows.
		Host:                   "127.0.0.1",
		Port:                   server.RANDOM_PORT,
		DontListen:             o.ClientListen == "" && o.alone(),
		NoSigs:                 true,
		JetStream:              o.Role == Voter,
		StoreDir:               o.Dir,
		SyncAlways:             o.Durability == FileSync,
		SyncInterval:           fileSync,
		DisableJetStreamBanner: true,
	}
	so.Users = []*server.User{{Username: inProcessUser, Password: password}}
	if o.ClientListen != "" {
		name, password := Credentials(o.Secret)
		so.Users = append(so.Users, &server.User{Username: name, Password: password})
		so.Host, so.Port, _ = splitAddress(o.ClientListen)
		if o.TLS != nil {
			so.TLSConfig = o.TLS.Clone()
			so.TLSConfig.MinVersion = max(so.TLSConfig.MinVersion, tls.VersionTLS12)
			so.TLS, so.TLSTimeout = true, 2
		}
	}
	if o.alone() {
		return so
	}
	c := &so.Cluster
	c.Name = cluster
	c.Host, c.Port, _ = splitAddress(o.Listen)
	c.Advertise, c.NoAdvertise = o.Advertise, true // the others, not to clients
	c.PingInterval, c.MaxPingsOut = routePing, routePings
	c.AuthTimeout = 2
	if len(o.Secret) > 0 {
		c.Username, c.Password = user, routePassword(o.Secret)
	}
	if o.TLS != nil {
		c.TLSConfig = o.TLS.Clone()
		c.TLSConfig.MinVersion = max(c.TLSConfig.MinVersion, tls.VersionTLS12)
		c.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
		if c.TLSConfig.ClientCAs == nil {
			c.TLSConfig.ClientCAs = c.TLSConfig.RootCAs
		}
		c.TLSTimeout = 2
	}
	for _, v := range o.Voters { // itself too: the first election waits for as many as are named
		u := &url.URL{Scheme: "nats-route", Host: v}
		if c.Username != "" {
			u.User = url.UserPassword(c.Username, c.Password)
		}
		so.Routes = append(so.Routes, u)
	}
	return so
}

// Credentials are the user name and the password with which a program signs in
// to the ClientListen of a node that has this secret. The URL nats://…?secret=…
// uses them.
func Credentials(secret []byte) (name, password string) {
	return user, derive(secret, "client")
}

// routePassword admits a server: what a client is given does not.
func routePassword(secret []byte) string { return derive(secret, "route") }

func derive(secret []byte, what string) string {
	if len(secret) == 0 {
		return ""
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "github.com/distsession/session/natsstore "+what, 32)
	if err != nil {
		panic(err) // only for a length over 255 hashes (RFC 5869, section 2.3)
	}
	return hex.EncodeToString(key)
}
