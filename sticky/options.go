package sticky

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// ErrConfig is a configuration that must not start. The message names the field
// and the mend, never a secret.
var ErrConfig = errors.New("sticky: bad configuration")

// ErrUnknownNode is an ID that no node has.
var ErrUnknownNode = errors.New("sticky: no such node")

// ErrNotSent is what a transport's error wraps to say that no byte of the
// request reached the node, so that any request may go to another one. Of
// [http.Transport]'s own errors the proxy finds out by itself.
var ErrNotSent = errors.New("sticky: the request was not sent")

// Node is one server of the application.
type Node struct {
	// ID names the node over restarts and changes of address. Affinity goes by
	// it, so two nodes never share one. It is not sent to clients.
	ID string

	// URL is where it listens: http or https, host and port, no path.
	URL *url.URL

	// Weight is its share of the users beside the others'. If 0, it is 1.
	Weight float64

	// MaxInFlight takes the place of Options.MaxInFlight, if not 0; negative is
	// no limit.
	MaxInFlight int
}

// Options of New; nil is all defaults.
type Options struct {
	// By says what pins a user. If zero, it is ByCookie().
	By Affinity

	// Keys make the affinity cookies: at least 32 random bytes each, the newest
	// first. The first makes, all are read; a cookie of an older one keeps its
	// node and is replaced. All balancers of a site share them. If empty, a
	// random one is drawn and a warning logged: a restart then forgets who
	// belongs where.
	Keys [][]byte

	// Cookie is the affinity cookie's shape.
	Cookie Cookie

	// Trusted are the addresses of the proxies in front. From the right of
	// X-Forwarded-For, with the peer as its last entry, whoever is in Trusted
	// counts as a proxy, and the first who is not is the client. What stands
	// left of that anybody can have written; it is cut off before the node sees
	// it.
	Trusted []netip.Prefix

	// TrustedHops is how many proxies stand in front, where their addresses are
	// not known: so many entries are skipped from the right, the peer's being
	// the first. With Trusted both must hold. A request that passed fewer counts
	// as the peer's.
	//
	// If both are zero, the client is the peer and no header is believed.
	TrustedHops int

	// Health says when a node is out, and when it is back.
	Health Health

	// Retry says how often a request may be sent.
	Retry Retry

	// MaxInFlight is how many requests, upgraded connections among them, a node
	// may have; the next one goes to the next node in rank. If 0, there is no
	// limit.
	MaxInFlight int

	// Rebalance is how many users a second may move from nodes that have more
	// than their share to those with less, in cookie mode. If 0, none.
	Rebalance float64

	// CloseOver is the time over which upgraded connections and event streams
	// are closed at Shutdown and after a drain, each at a random moment of it, so
	// that their clients do not all come back at once. If 0, it is 5 seconds;
	// negative: at once.
	CloseOver time.Duration

	// DialTimeout is how long connecting to a node may take. If 0, it is 2
	// seconds.
	DialTimeout time.Duration

	// HeaderTimeout is how long a node may take, once it has the whole request,
	// to begin its answer, and before that, to take some more of it; then it is
	// 504, or another node's turn. If 0, it is 30 seconds; negative: for ever.
	HeaderTimeout time.Duration

	// IdleTimeout is how long an unused connection to a node is kept. It should
	// be shorter than the node's own, or a POST may meet a connection that is
	// just being closed. If 0, it is 30 seconds.
	IdleTimeout time.Duration

	// Dial connects to a node. If nil, it is net.Dialer's DialContext.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// TLS is for nodes with an https URL. If nil, their certificates are checked
	// with the system's roots.
	TLS *tls.Config

	// Transport takes the requests to the nodes, in place of one tuned
	// [http.Transport] a node. DialTimeout, HeaderTimeout, IdleTimeout and Dial
	// are then its own affair. See ErrNotSent; it must call the hooks GotConn and
	// GotFirstResponseByte of [net/http/httptrace], or wait for an answer before
	// it returns an error; and to close a response's body must end a Read of it.
	Transport http.RoundTripper

	// Observer is called when a request has ended, for logs and traces.
	Observer func(*http.Request, Outcome)

	// Logger tells when a node goes and comes, and what is wrong. If nil, it is
	// slog.Default().
	Logger *slog.Logger
}

// Affinity is what pins a user to a node.
type Affinity struct {
	kind affinityKind
	key  func(*http.Request) string
}

type affinityKind uint8

const (
	byCookie affinityKind = iota
	byIP
	byKey
)

// ByCookie pins by a cookie of the balancer's own.
func ByCookie() Affinity { return Affinity{} }

// ByIP pins by the client's address: the whole of an IPv4 address, the first 64
// bits of an IPv6 one (a host changes the others daily, RFC 8981).
func ByIP() Affinity { return Affinity{kind: byIP} }

// ByKey pins by what key returns: a tenant, a room, a document. Where it returns
// "", the client's address decides. A client that chooses its key chooses its
// node; MaxInFlight bounds what that can do.
func ByKey(key func(*http.Request) string) Affinity { return Affinity{byKey, key} }

// Cookie is the shape of the affinity cookie. It is HttpOnly and for the whole
// host; over TLS it is Secure and its name begins with "__Host-".
type Cookie struct {
	// Name; if "", it is "affinity", "__Host-affinity" over TLS. It must not be
	// the session's.
	Name string

	// Secure makes it the cookie for TLS also where the balancer does not see
	// TLS: it is ended in front by a proxy that is not trusted to say so.
	Secure bool

	// SameSite; if 0, it is Lax. None goes with TLS; without, it is Lax.
	SameSite http.SameSite

	// Partitioned gives each embedding site a cookie of its own (CHIPS), over
	// TLS.
	Partitioned bool

	// MaxAge is how long the browser keeps it. If 0, until it closes.
	MaxAge time.Duration
}

// Health says when a node is out, and when it is back.
type Health struct {
	// Path is fetched with GET. 2xx and 3xx are healthy; 503 means that the node
	// is about to leave: it gets no request any more, but is not taken for dead;
	// anything else is a failure. If "", connecting is enough.
	Path string

	// Host is the Host header of the check. If "", it is the node's.
	Host string

	// Interval between checks. If 0, it is 1 second; if negative, there are none,
	// and a node that was found to be out is tried again after Window.
	Interval time.Duration

	// Timeout of a check. If 0, it is 1 second.
	Timeout time.Duration

	// Fall is how many failures in a row take a node out; 0 is 2. The first check
	// of all counts at once.
	Fall int

	// Rise is how many healthy answers in a row bring it back; 0 is 2. A node
	// that was added takes its first users after one.
	Rise int

	// Fails is how many requests that waited for an answer, or a connection, in
	// vain take a node out: within Window, and none answered in between; 0 is 3. A
	// refused connection takes it out at once. A connection that is closed without
	// an answer counts for nothing: a handler that panics does that.
	Fails int

	// Window for Fails; 0 is 10 seconds.
	Window time.Duration

	// SlowStart is how long a node that has come back, or was added, takes to get
	// all its users: at a tenth of the time it has a tenth of them. Users whose
	// cookie names it are served at once. If 0, it is 10 seconds; negative: none.
	SlowStart time.Duration

	// Strict answers 503 when no node is healthy, rather than try those that are
	// thought to be down.
	Strict bool
}

// Retry says how often a request may be sent.
type Retry struct {
	// Attempts is how many nodes may get a request, one after the other; 0 is 3.
	// With 1 nothing is sent a second time, not even to the same node over a
	// fresh connection because a kept one had died. Nodes that refuse the
	// connection do not count.
	Attempts int

	// Budget is how many requests may be sent again after they were sent, as a
	// part of all; 0 is 0.1, negative is none. Up to 500 may be saved up, for the
	// moment when a node dies. Not counted is what never left, and what a transport
	// replays by itself to the same node.
	Budget float64

	// MaxBody is how many bytes of a body with an Idempotency-Key are kept, so
	// that it can be replayed; 0 is 64 KiB, negative is none. A longer body passes
	// all the same, and is not sent again.
	MaxBody int

	// NoIdempotencyKey sends nothing again because of its Idempotency-Key: for
	// nodes that do not heed it.
	NoIdempotencyKey bool
}

// Outcome is how a request ended.
type Outcome struct {
	Node     string // that answered, "" for none
	Client   netip.Addr
	Attempts int   // nodes that were tried
	Moved    bool  // another node than the user's own answered
	Err      error // why no node answered
}

// fill returns the options with their defaults, or ErrConfig.
func (o *Options) fill() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	def(&c.CloseOver, 5*time.Second)
	def(&c.DialTimeout, 2*time.Second)
	def(&c.HeaderTimeout, 30*time.Second)
	def(&c.IdleTimeout, 30*time.Second)
	def(&c.Health.Interval, time.Second)
	def(&c.Health.Timeout, time.Second)
	def(&c.Health.Fall, 2)
	def(&c.Health.Rise, 2)
	def(&c.Health.Fails, 3)
	def(&c.Health.Window, 10*time.Second)
	def(&c.Health.SlowStart, 10*time.Second)
	def(&c.Retry.Attempts, 3)
	def(&c.Retry.Budget, 0.1)
	def(&c.Retry.MaxBody, 64<<10)
	def(&c.Cookie.SameSite, http.SameSiteLaxMode)
	c.Trusted = unmap(c.Trusted)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, c.check()
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o *Options) check() error {
	switch h := o.Health; {
	case o.By.kind == byKey && o.By.key == nil:
		return configErr("By: ByKey needs a function")
	case o.TrustedHops < 0:
		return configErr("TrustedHops is negative; count the proxies in front, or leave it 0")
	case o.MaxInFlight < 0:
		return configErr("MaxInFlight is negative; leave it 0 for no limit")
	case !(o.Rebalance >= 0 && o.Rebalance <= maxRate):
		return configErr("Rebalance is %v; give users per second, 0 for none", o.Rebalance)
	case o.DialTimeout < 0, o.IdleTimeout < 0, h.Timeout < 0, h.Window < 0:
		return configErr("DialTimeout, IdleTimeout, Health.Timeout and Health.Window are not negative; leave them 0 for the default")
	case h.Fall < 0, h.Rise < 0, h.Fails < 0, o.Retry.Attempts < 0:
		return configErr("Health.Fall, Rise and Fails and Retry.Attempts are not negative; leave them 0 for the default")
	case h.Path != "" && h.Path[0] != '/':
		return configErr("Health.Path %q does not begin with /; write /healthz", h.Path)
	}
	if _, err := url.ParseRequestURI(o.Health.Path); o.Health.Path != "" && (err != nil || strings.Contains(o.Health.Path, "#")) {
		return configErr("Health.Path %q is no path; write /healthz, escaped and without a fragment", o.Health.Path)
	}
	for _, p := range o.Trusted {
		if !p.IsValid() {
			return configErr("Trusted has an invalid prefix; netip.ParsePrefix makes good ones")
		}
	}
	if err := checkKeys(o.Keys); err != nil {
		return err
	}
	return o.Cookie.check()
}

func configErr(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)
}

// checkNodes tells what is wrong with a set of nodes.
func checkNodes(nodes []Node) error {
	ids := make(map[string]bool, len(nodes))
	for i, n := range nodes {
		if n.ID == "" || len(n.ID) > 255 {
			return configErr("node %d: the ID has %d characters; give it 1 to 255, the same after every restart", i+1, len(n.ID))
		}
		if ids[n.ID] {
			return configErr("two nodes have the ID %q; affinity goes by it, so give each its own", n.ID)
		}
		ids[n.ID] = true
		if err := checkURL(n.URL); err != nil {
			return configErr("node %q: %v", n.ID, err)
		}
		if !(n.Weight >= 0 && n.Weight <= maxWeight) {
			return configErr("node %q: the weight is %v; give 0 (for 1) to %v", n.ID, n.Weight, float64(maxWeight))
		}
	}
	return nil
}

const (
	maxWeight = 1e6
	maxRate   = 1e6
)

func checkURL(u *url.URL) error {
	switch {
	case u == nil:
		return errors.New("the URL is missing")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("the URL's scheme is %q; it takes http or https", u.Scheme)
	case u.Hostname() == "":
		return errors.New("the URL has no host; write http://10.0.0.1:8080")
	case u.User != nil:
		return errors.New("the URL has a user or password; leave it out")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return errors.New("the URL has more than scheme, host and port; requests keep their own path")
	}
	return nil
}
