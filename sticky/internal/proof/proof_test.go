package proof

import (
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/distsession/session/sticky"
)

// setup is a balancer, and where the sessions behind it are.
type setup struct {
	name   string
	backed bool // session.Cached over Redis; otherwise each node's plain memory
	front  func(t *testing.T, f *fleet) front
	ours   bool
	waits  bool     // it may not notice within 3 s that a node hangs
	short  []string // the faults that are tried without -table
}

var setups = []setup{
	{name: byCookie, backed: true, ours: true, front: frontOurs(sticky.ByCookie()),
		short: []string{killName, rollName, freezeName, cutName, growName, forgetName}},
	{name: byAddress, backed: true, ours: true, front: frontOurs(sticky.ByIP()),
		short: []string{freezeName, twoName, growName, alternateName}},
	{name: "HAProxy by cookie, session.Cached", backed: true, front: newHAProxy, short: []string{freezeName}},
	{name: "nginx by cookie, session.Cached", backed: true, front: frontNginx("nginx-cookie"), waits: true},
	{name: "nginx ip_hash, session.Cached", backed: true, front: frontNginx("nginx-ip"), waits: true, short: []string{rollName}},
	{name: "Caddy by cookie, session.Cached", backed: true, front: newCaddy, waits: true, short: []string{killName}},
	{name: "sticky by cookie, plain memory", front: frontOurs(sticky.ByCookie())},
	{name: "HAProxy by cookie, plain memory", front: newHAProxy, short: []string{killName}},
	{name: "nginx by cookie, plain memory", front: frontNginx("nginx-cookie"), waits: true, short: []string{rollName}},
	{name: "nginx ip_hash, plain memory", front: frontNginx("nginx-ip"), waits: true, short: []string{killName}},
}

func frontOurs(by sticky.Affinity) func(t *testing.T, f *fleet) front {
	return func(t *testing.T, f *fleet) front {
		return newOurs(t, f, func(o *sticky.Options) {
			o.By = by
			o.HeaderTimeout = f.hung
			o.Rebalance = 50
		})
	}
}

func frontNginx(name string) func(t *testing.T, f *fleet) front {
	return func(t *testing.T, f *fleet) front { return newNginx(t, f, name) }
}

// fault is what is done to the fleet while its users are busy.
type fault struct {
	name  string
	setup string // the only one that is tried; "": all
	ours  bool   // what the recipes for the others cannot do
	route func(t *testing.T, f *fleet, b front) router
	hung  time.Duration // a node that has not begun to answer after so long is given up; 0: the default
	do    func(t *testing.T, l *load, f *fleet, b front)
}

// router says where a device's next request goes; it may change its cookies.
type router func(d *device, step int) (base string, header http.Header)

const (
	byCookie  = "sticky by cookie, session.Cached"
	byAddress = "sticky by address, session.Cached"

	killName      = "kill -9 and return"
	rollName      = "rolling restart with drain"
	freezeName    = "SIGSTOP for 3 s, SIGCONT"
	cutName       = "node cut off from the backup for 3 s"
	twoName       = "two balancers, kill -9 and return"
	growName      = "a node added"
	alternateName = "addresses alternate, IPv4 and IPv6; kill -9"
	forgetName    = "affinity cookies dropped; kill -9"
)

var faultsOfAll = []fault{
	{name: killName, do: kill},
	{name: rollName, do: roll},
	{name: freezeName, hung: 2 * time.Second, do: freeze},
	{name: cutName, ours: true, do: partition},
	{name: twoName, ours: true, route: twoBalancers, do: kill},
	{name: growName, ours: true, do: grow},
	{name: alternateName, setup: byAddress, route: alternate, do: kill},
	{name: forgetName, setup: byCookie, route: forget, do: kill},
}

// TestProof shows the promises: with copies of a backup nothing is lost, missed,
// older than it may be, or run twice, whatever happens to a node and whatever
// balances; and only POSTs in the hands of that node fail behind the balancer
// of this module. With plain memory sessions are lost, and this notices.
func TestProof(t *testing.T) {
	for _, s := range setups {
		for _, f := range faultsOfAll {
			if !s.tries(f) {
				continue
			}
			t.Run(s.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				prove(t, s, f)
			})
		}
	}
}

// tries tells whether this run has the time for a fault over this setup.
func (s setup) tries(f fault) bool {
	switch {
	case f.setup != "" && f.setup != s.name, f.ours && !s.ours:
		return false
	case *full:
		return true
	case os.Getenv("SESSION_SERVERS") == "none":
		return s.name == byCookie && f.name == freezeName || s.name == byAddress && f.name == twoName
	}
	return slices.Contains(s.short, f.name)
}

// prove lets users do their work over a fleet, does what is to be survived, and
// counts.
func prove(t *testing.T, s setup, f fault) {
	fleet := newFleet(t, s.backed, maxStale)
	fleet.hung = f.hung
	b := s.front(t, fleet)
	opts := loadOptions{users: 99, pause: 400 * time.Millisecond, second: s.backed}
	if *full {
		opts.users = 300
	}
	opts.route = func(*device, int) (string, http.Header) { return b.url(), nil }
	if f.route != nil {
		opts.route = f.route(t, fleet, b)
	}
	l := startLoad(t, fleet, opts)
	f.do(t, l, fleet, b)
	l.progress(2)
	sum := l.end()
	t.Logf("%+v", sum)
	report(s.name, f.name, sum)
	if sum.moved == 0 && !(s.waits && f.name == freezeName) {
		t.Error("nobody came to another node: nothing was tried")
	}
	if !s.backed {
		if sum.lost == 0 && sum.moved > 0 {
			t.Error("no session was lost with its node: the harness sees nothing")
		}
		return
	}
	sum.consistent(t)
	if s.ours && sum.failed != 0 {
		t.Errorf("%d requests failed that were in no faulty node's hands", sum.failed)
	}
}

// inTheAir is how long after a process has ended its peers may take it for
// alive: a POST that they send over a connection whose end they have not noticed
// yet is in that process' hands.
const inTheAir = 50 * time.Millisecond

// kill is a crash.
func kill(t *testing.T, l *load, f *fleet, _ front) {
	victim := f.nodes[0]
	l.during(victim, false, func() {
		victim.Kill()
		time.Sleep(inTheAir)
	})
	l.progress(2)
	victim.restart(t)
	l.progress(2)
}

// roll is a deploy.
func roll(t *testing.T, l *load, f *fleet, b front) {
	for _, m := range f.nodes {
		b.leave(t, m)
		m.Stop(t, time.Minute)
		m.restart(t)
		b.back(t, m)
		l.progress(1)
	}
}

// freeze is a node that hangs, and wakes with old memory, old connections and
// the requests that it had accepted.
func freeze(t *testing.T, l *load, f *fleet, _ front) {
	victim := f.nodes[0]
	l.during(victim, true, func() {
		victim.Pause()
		time.Sleep(3 * time.Second) // that is the fault
		victim.Resume()
	})
	l.progress(3)
}

// partition is a network that lets nothing pass, and breaks no connection.
func partition(t *testing.T, l *load, f *fleet, _ front) {
	victim := f.nodes[0]
	l.during(victim, true, func() {
		victim.link.Stall()
		time.Sleep(3 * time.Second) // that is the fault
		victim.link.Heal()
	})
	l.progress(3)
}

// grow adds a node.
func grow(t *testing.T, l *load, f *fleet, b front) {
	m := f.add(t)
	m.ready(t)
	if err := b.(*ours).proxy.SetNodes(f.sticky(t)); err != nil {
		t.Fatal(err)
	}
	l.progress(3)
	if n, err := m.ask(t.Context(), "GET", "/-/requests"); n == "0" || err != nil {
		t.Errorf("the new node had %s requests, %v", n, err)
	}
}

// twoBalancers sends each device to one and the other in turn. They share keys
// and nodes, and know nothing of each other.
func twoBalancers(t *testing.T, f *fleet, b front) router {
	other := newOurs(t, f, b.(*ours).change)
	return func(_ *device, step int) (string, http.Header) {
		if step%2 == 0 {
			return b.url(), nil
		}
		return other.url(), nil
	}
}

// alternate gives each device an IPv6 address for every other request, as a
// proxy in front with both families would pass them on.
func alternate(t *testing.T, _ *fleet, b front) router {
	v6 := b.(*ours).url6(t)
	return func(d *device, step int) (string, http.Header) {
		if step%2 == 0 {
			return b.url(), nil
		}
		return v6, http.Header{"X-Forwarded-For": {d.v6()}}
	}
}

// forget drops the balancer's cookie before every request.
func forget(_ *testing.T, _ *fleet, b front) router {
	return func(d *device, _ int) (string, http.Header) {
		d.keep(affinityCookie, "")
		return b.url(), nil
	}
}
