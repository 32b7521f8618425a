package proof

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sticky"
)

// front is a balancer in front of a fleet.
type front interface {
	// url is where the visitors go.
	url() string
	// leave takes a node out, and returns when it gets no request any more; its
	// users go to the others.
	leave(t *testing.T, m *member)
	// back puts it in again.
	back(t *testing.T, m *member)
}

// ours is package sticky.
type ours struct {
	proxy  *sticky.Proxy
	server *httptest.Server
	change func(*sticky.Options)
}

func newOurs(t *testing.T, f *fleet, change func(*sticky.Options)) *ours {
	t.Helper()
	opts := &sticky.Options{
		Keys:    [][]byte{bytes.Repeat([]byte("k"), 32)},
		Cookie:  sticky.Cookie{Secure: true},
		Trusted: []netip.Prefix{netip.MustParsePrefix("::1/128")},
		Health:  sticky.Health{Path: "/health", Interval: 200 * time.Millisecond, SlowStart: 300 * time.Millisecond},
		Logger:  slog.New(slog.DiscardHandler),
	}
	change(opts)
	proxy, err := sticky.New(f.sticky(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	o := &ours{proxy, httptest.NewServer(proxy), change}
	t.Cleanup(func() {
		o.server.Close()
		if err := proxy.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return o
}

// sticky returns the nodes as package sticky wants them.
func (f *fleet) sticky(t *testing.T) []sticky.Node {
	t.Helper()
	var nodes []sticky.Node
	for _, m := range f.nodes {
		u, err := url.Parse("http://" + m.config.Addr)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, sticky.Node{ID: m.config.Name, URL: u})
	}
	return nodes
}

func (o *ours) url() string { return o.server.URL }

// url6 is the balancer's address of the other family, as a proxy in front would
// reach it.
func (o *ours) url6(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		servers.Lacking(t, "this machine has no IPv6 loopback: "+err.Error())
	}
	server := &http.Server{Handler: o.proxy}
	go server.Serve(l) // until Close
	t.Cleanup(func() { server.Close() })
	return "http://" + l.Addr().String()
}

func (o *ours) leave(t *testing.T, m *member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := o.proxy.Drain(ctx, m.config.Name, sticky.Move); err != nil {
		t.Fatal(err)
	}
}

func (o *ours) back(t *testing.T, m *member) {
	t.Helper()
	if err := o.proxy.Resume(m.config.Name); err != nil {
		t.Fatal(err)
	}
}

// haproxy is HAProxy as docs/balancers.md has it.
type haproxy struct{ *servers.Balancer }

func newHAProxy(t *testing.T, f *fleet) front {
	t.Helper()
	h := haproxy{servers.HAProxy(t, recipe(t, "haproxy", f.addrs()))}
	servers.Wait(t, "HAProxy's checks", time.Minute, func(context.Context) error {
		states := h.Command(t, "show stat")
		if n := strings.Count(states, "L7OK"); n != len(f.nodes) {
			return fmt.Errorf("%d of %d nodes", n, len(f.nodes))
		}
		return nil
	})
	return h
}

func (h haproxy) url() string { return "http://" + h.Addr }

func (h haproxy) leave(t *testing.T, m *member) {
	t.Helper()
	h.set(t, m, "maint")
	m.quiet(t)
}

func (h haproxy) back(t *testing.T, m *member) {
	t.Helper()
	h.set(t, m, "ready")
}

func (h haproxy) set(t *testing.T, m *member, state string) {
	t.Helper()
	if answer := h.Command(t, "set server app/"+m.config.Name+" state "+state); answer != "" {
		t.Fatalf("HAProxy: %s", answer)
	}
}

// nginx is nginx as docs/balancers.md has it.
type nginx struct {
	*servers.Balancer
	text func(addr string) string
}

func newNginx(t *testing.T, f *fleet, name string) front {
	t.Helper()
	text := recipe(t, name, f.addrs())
	return nginx{servers.Nginx(t, text), text}
}

func (n nginx) url() string { return "http://" + n.Addr }

func (n nginx) leave(t *testing.T, m *member) {
	t.Helper()
	server := "server " + m.config.Addr
	n.Reload(t, func(addr string) string {
		text := n.text(addr)
		if strings.Count(text, server) != 1 {
			t.Fatalf("the recipe has no line %q", server)
		}
		return strings.Replace(text, server, server+" down", 1)
	})
	m.quiet(t)
}

func (n nginx) back(t *testing.T, m *member) {
	t.Helper()
	n.Reload(t, n.text)
}

// caddy is Caddy as docs/balancers.md has it. A node leaves by its own health
// check.
type caddy struct{ *servers.Balancer }

func newCaddy(t *testing.T, f *fleet) front {
	t.Helper()
	return caddy{servers.Caddy(t, recipe(t, "caddy", f.addrs()))}
}

func (c caddy) url() string { return "http://" + c.Addr }

func (c caddy) leave(t *testing.T, m *member) {
	t.Helper()
	m.leave(t)
	c.looks(t, m)
	m.quiet(t)
}

func (c caddy) back(t *testing.T, m *member) {
	t.Helper()
	c.looks(t, m)
}

// looks waits until Caddy has looked at a node often enough to believe what it
// sees.
func (c caddy) looks(t *testing.T, m *member) {
	t.Helper()
	from := -1
	servers.Wait(t, "Caddy's checks", time.Minute, func(ctx context.Context) error {
		text, err := m.ask(ctx, "GET", "/-/checks")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(text)
		if from < 0 {
			from = n
		}
		if err == nil && n < from+3 {
			err = fmt.Errorf("%d so far", n-from)
		}
		return err
	})
}
