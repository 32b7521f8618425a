package proof

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
)

// The cookies of the session, of its version, and of package sticky.
const (
	sessionCookie  = "__Host-session"
	versionCookie  = "__Host-session.v"
	affinityCookie = "__Host-affinity"
)

// loadOptions say who comes, and how.
type loadOptions struct {
	users int
	pause time.Duration // on average, between two requests of one device
	// second gives every third user another device with the same session, and
	// another address. It begins without the other cookies of the first.
	second bool
	route  router
}

// load is the users, and what they have seen.
type load struct {
	t       *testing.T
	fleet   *fleet
	opts    loadOptions
	devices []*device
	stop    chan struct{}
	wg      sync.WaitGroup
	outages []outage
}

// outage is when a node could not answer: a POST that was in its hands then may
// fail.
type outage struct {
	node     string
	lives    bool // it logs, sooner or later, what it was sent
	from, to time.Time
}

// device is one browser of one user. Its requests come one after the other.
type device struct {
	*visitor
	load   *load
	user   *user
	number int
	key    string // what it adds to in the session
	steps  atomic.Int64
	last   string // the node that answered last

	mu   sync.Mutex
	sent int
	acks []ack
	gone int // of acks, in sessions that were lost
	tally
	failed []failure
}

// ack is an addition that was acknowledged.
type ack struct {
	n  int
	at time.Time
}

type user struct {
	name    string
	devices []*device
	signIn  sync.Mutex
}

// failure is a request that was not answered as it should be.
type failure struct {
	method, id string
	from, to   time.Time
	why        string
}

// startLoad signs everybody in, and lets them go until end.
func startLoad(t *testing.T, f *fleet, opts loadOptions) *load {
	t.Helper()
	l := &load{t: t, fleet: f, opts: opts, stop: make(chan struct{})}
	for i := range opts.users {
		u := &user{name: "user" + strconv.Itoa(i)}
		l.join(u, "a")
		if opts.second && i%3 == 0 {
			l.join(u, "b")
		}
	}
	// Not all at once: what is measured comes later.
	gate := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, d := range l.devices {
		if d.key != "a" {
			continue
		}
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			if err := d.enter(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, d := range l.devices {
		l.wg.Go(d.run)
	}
	t.Cleanup(l.halt)
	l.progress(2)
	return l
}

func (l *load) join(u *user, key string) {
	d := &device{visitor: newVisitor(len(l.devices)), load: l, user: u, number: len(l.devices), key: key}
	u.devices = append(u.devices, d)
	l.devices = append(l.devices, d)
}

// halt ends the load; requests under way are answered first.
func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
}

// progress waits until every device has made n more requests.
func (l *load) progress(n int64) {
	l.t.Helper()
	want := make([]int64, len(l.devices))
	for i, d := range l.devices {
		want[i] = d.steps.Load() + n
	}
	servers.Wait(l.t, "requests of all users", 2*time.Minute, func(context.Context) error {
		for i, d := range l.devices {
			if have := d.steps.Load(); have < want[i] {
				return fmt.Errorf("%s has made %d of %d", d.user.name, have, want[i])
			}
		}
		return nil
	})
}

// during notes that the node could not answer while f ran.
func (l *load) during(m *member, lives bool, f func()) {
	from := time.Now()
	f()
	l.outages = append(l.outages, outage{m.config.Name, lives, from, time.Now()})
}

// enter signs the user in, on all devices.
func (d *device) enter() error {
	d.user.signIn.Lock()
	defer d.user.signIn.Unlock()
	res, err := d.ask(http.MethodPost, "/in?user="+d.user.name)
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	if res.status != http.StatusOK || d.cookie(sessionCookie) == "" {
		return fmt.Errorf("sign in: %d", res.status)
	}
	for _, other := range d.user.devices {
		other.mu.Lock()
		other.gone = len(other.acks)
		other.mu.Unlock()
		if other != d {
			other.keep(sessionCookie, d.cookie(sessionCookie))
			other.keep(versionCookie, "")
		}
	}
	return nil
}

func (d *device) ask(method, path string) (*response, error) {
	base, header := d.load.opts.route(d, int(d.steps.Load()))
	return d.do(method, base+path, header)
}

// v6 is the device's address of the other family, in a network of its own.
func (d *device) v6() string { return fmt.Sprintf("2001:db8:%x::1", 1+d.number) }

func (d *device) run() {
	for {
		select {
		case <-d.load.stop:
			return
		case <-time.After(d.load.opts.pause/2 + rand.N(d.load.opts.pause)):
		}
		if rand.IntN(5) < 2 {
			d.add()
		} else {
			d.show()
		}
		d.steps.Add(1)
	}
}

// seen is what an answer must show of what one device has added.
type seen struct {
	device *device
	acks   []ack
}

// knows returns what the answer to a request that begins now must show: all that
// this device was acknowledged, and of what the other one was, all that is
// older than the nodes' copies may be.
func (d *device) knows(now time.Time) []seen {
	var all []seen
	for _, other := range d.user.devices {
		until := now
		if other != d {
			until = now.Add(-maxStale)
		}
		other.mu.Lock()
		acks := other.acks[other.gone:]
		n := sort.Search(len(acks), func(i int) bool { return acks[i].at.After(until) })
		all = append(all, seen{other, acks[:n]})
		other.mu.Unlock()
	}
	return all
}

// show reads, and compares.
func (d *device) show() {
	start := time.Now()
	known := d.knows(start)
	res, err := d.ask(http.MethodGet, "/")
	if !d.answered(http.MethodGet, "", start, res, err) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range known {
		switch {
		case len(lacking(k.acks, res.numbers.of(k.device.key))) == 0:
		case k.device == d:
			d.missed++
		default:
			d.stale++
		}
	}
}

// lacking returns what was acknowledged and is not there.
func lacking(acks []ack, there []int) (lacks []int) {
	for _, a := range acks {
		if !slices.Contains(there, a.n) {
			lacks = append(lacks, a.n)
		}
	}
	return lacks
}

func (d *device) add() {
	start := time.Now()
	d.mu.Lock()
	d.sent++
	n := d.sent
	d.mu.Unlock()
	id := d.id(n)
	res, err := d.ask(http.MethodPost, "/add?"+url.Values{"id": {id}, "device": {d.key}, "n": {strconv.Itoa(n)}}.Encode())
	if d.answered(http.MethodPost, id, start, res, err) {
		d.mu.Lock()
		d.acks = append(d.acks, ack{n, time.Now()})
		d.mu.Unlock()
	}
}

// id names the device's nth addition.
func (d *device) id(n int) string { return fmt.Sprintf("%s-%s-%d", d.user.name, d.key, n) }

// answered tells whether the request was, and counts what went wrong.
func (d *device) answered(method, id string, start time.Time, res *response, err error) bool {
	took := time.Since(start)
	d.mu.Lock()
	d.requests++
	d.longest = max(d.longest, took)
	if err == nil && d.last != "" && d.last != res.node && res.node != "" {
		d.moved++
	}
	if err == nil && res.status == http.StatusOK {
		d.last = res.node
		d.mu.Unlock()
		return true
	}
	if err == nil && res.status == http.StatusUnauthorized {
		d.lost++
		d.last = res.node
		d.mu.Unlock()
		if err := d.enter(); err != nil {
			d.mu.Lock() // and the next request is told so again
			d.failed = append(d.failed, failure{http.MethodPost, "", start, time.Now(), err.Error()})
			d.mu.Unlock()
		}
		return false
	}
	why := fmt.Sprint(err)
	if err == nil {
		why = fmt.Sprintf("status %d", res.status)
	}
	d.failed = append(d.failed, failure{method, id, start, start.Add(took), why})
	d.mu.Unlock()
	return false
}

// inHands tells whether a POST failed because it was in the hands of a node that
// could not answer: it was under way then, no other node got it, and this one
// did, if it lives to tell.
func (l *load) inHands(f failure, got []string) bool {
	return f.method == http.MethodPost && slices.ContainsFunc(l.outages, func(o outage) bool {
		others := slices.ContainsFunc(got, func(node string) bool { return node != o.node })
		return !others && (len(got) > 0 || !o.lives) && !f.from.After(o.to) && !f.to.Before(o.from)
	})
}

// end stops the users and counts.
func (l *load) end() tally {
	l.t.Helper()
	l.halt()
	got, ran := l.fleet.logged(l.t)
	var sum tally
	for id, nodes := range ran {
		sum.twice += len(nodes) - 1
		if len(nodes) > 1 {
			l.t.Logf("%s ran on %v", id, nodes)
		}
	}
	for _, d := range l.devices {
		sum.add(d.tally)
		for _, f := range d.failed {
			if l.inHands(f, got[f.id]) {
				sum.inHands++
				continue
			}
			sum.failed++
			if sum.failed <= 5 {
				l.t.Logf("failed: %s %s after %v, at %v, ran on %v: %s", f.method, f.id, f.to.Sub(f.from).Round(time.Millisecond), got[f.id], ran[f.id], f.why)
			}
		}
		final, err := l.final(d)
		if err != nil {
			l.t.Errorf("%s at the end: %v", d.user.name, err)
			continue
		}
		if lacks := lacking(d.acks, final); len(lacks) > 0 {
			sum.updates += len(lacks)
			l.t.Logf("%s %s was acknowledged %v, of which there is only %v", d.user.name, d.key, d.acks, final)
		}
		if twice := len(final) - len(slices.Compact(slices.Sorted(slices.Values(final)))); twice > 0 {
			sum.twice += twice
			l.t.Logf("%s %s has added %v", d.user.name, d.key, final)
		}
		for _, n := range final {
			if len(ran[d.id(n)]) == 0 {
				l.t.Errorf("%s is there, and no node ran it", d.id(n))
			}
		}
	}
	return sum
}

// final returns what became of a device's additions in the end: what the backup
// has, or what the node shows.
func (l *load) final(d *device) ([]int, error) {
	if l.fleet.backup != "" {
		all, err := l.fleet.stored(l.t.Context(), d.cookie(sessionCookie))
		return all.of(d.key), err
	}
	res, err := d.ask(http.MethodGet, "/")
	switch {
	case err != nil:
		return nil, err
	case res.status != http.StatusOK && res.status != http.StatusUnauthorized: // 401: lost, as others were
		return nil, fmt.Errorf("status %d", res.status)
	}
	return res.numbers.of(d.key), nil
}
