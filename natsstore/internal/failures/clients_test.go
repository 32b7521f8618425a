package failures_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
)

// clients are users who sign in, add, read and sign out while nodes come and
// go, and the book of what was acknowledged to them.
type clients struct {
	t       testing.TB
	cluster *cluster
	strong  time.Duration // how old an answer of a strong store may be
	calm    atomic.Bool   // no request may fail

	stop    context.CancelFunc
	running sync.WaitGroup
	stayers []*user // who stay signed in
	next    atomic.Int64

	mu       sync.Mutex
	leavers  []*user // who have signed out
	acked    int     // changes
	refused  int     // changes and reads that failed
	underway int     // of these, on a node that was stopping
	reads    int
	stale    int // answers older than they may be
	revived  int // answers for a session that was signed out
	lost     int // acknowledged changes and sessions that are gone
	oldest   time.Duration
	outAfter time.Duration // from a sign-out to the last answer that did not know of it
	longest  time.Duration // of a client, until a change was acknowledged
}

// user is one session and what its owner knows of it.
type user struct {
	token string

	mu    sync.Mutex
	sent  map[int64]bool      // numbers that may be there
	acked map[int64]time.Time // numbers that must be, since when
	out   time.Time           // when the sign-out was acknowledged
	quits bool                // and that it was asked for
}

const (
	stayers = 16
	many    = 6                    // workers
	pause   = 5 * time.Millisecond // of a client, between two requests
	healing = time.Minute          // that a place may take to answer again
)

// connect signs users in and lets them work until close. strong is how old an
// answer of a strong store may be: nothing, unless a node is cut off or stands
// still, and MaxStale then.
func connect(t testing.TB, c *cluster, workers int, strong time.Duration) *clients {
	t.Helper()
	cs := &clients{t: t, cluster: c, strong: strong}
	cs.calm.Store(true)
	for i := range stayers {
		u, err := cs.signIn(t.Context(), c.pick(i), mode(i))
		if err != nil {
			t.Fatal(err)
		}
		cs.stayers = append(cs.stayers, u)
	}
	var ctx context.Context
	ctx, cs.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { cs.stop(); cs.running.Wait() })
	for range workers {
		cs.running.Go(func() { cs.work(ctx) })
	}
	cs.running.Go(func() { cs.comeAndGo(ctx) })
	cs.progress()
	return cs
}

func mode(i int) string {
	if i%2 == 0 {
		return "local"
	}
	return "strong"
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// work adds and reads.
func (cs *clients) work(ctx context.Context) {
	last := time.Now()
	for ctx.Err() == nil {
		rest(ctx, pause)
		m := cs.cluster.pick(rand.IntN(3))
		if m == nil {
			continue
		}
		u, on := cs.stayers[rand.IntN(len(cs.stayers))], mode(rand.IntN(2))
		if rand.IntN(2) == 0 {
			cs.read(ctx, m, on, u)
			continue
		}
		if cs.add(ctx, m, on, u) == nil {
			now := time.Now()
			cs.mu.Lock()
			cs.longest = max(cs.longest, now.Sub(last))
			cs.mu.Unlock()
			last = now
		}
	}
}

// comeAndGo signs in, adds, signs out, and looks until no node knows the
// session any more.
func (cs *clients) comeAndGo(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		rest(ctx, 4*pause)
		m := cs.cluster.pick(i)
		if m == nil {
			continue
		}
		u, err := cs.signIn(ctx, m, mode(i))
		if err != nil {
			continue
		}
		cs.someone(i+1, func(m *member) { cs.add(ctx, m, mode(i), u) })
		cs.someone(i+2, func(m *member) { cs.read(ctx, m, mode(i/2), u) })
		for ctx.Err() == nil && cs.signOut(ctx, cs.cluster.pick(i+2), mode(i/3), u) != nil {
			rest(ctx, 4*pause)
		}
		cs.watchOut(ctx, u)
	}
}

func (cs *clients) someone(i int, f func(*member)) {
	if m := cs.cluster.pick(i); m != nil {
		f(m)
	}
}

// watchOut looks at a session that was signed out, on all nodes that get
// requests, until all know it.
func (cs *clients) watchOut(ctx context.Context, u *user) {
	for ctx.Err() == nil {
		live := false
		for _, m := range cs.cluster.members {
			for on := range modes {
				if m.serving() {
					status, _ := cs.read(ctx, m, on, u)
					live = live || status == http.StatusOK
				}
			}
		}
		if !live {
			return
		}
	}
}

// failed books a request that was not answered as it should.
func (cs *clients) failed(ctx context.Context, m *member, what string, status int, body []byte, err error) error {
	if err == nil {
		err = fmt.Errorf("%d %.80s", status, body)
	}
	err = fmt.Errorf("%s on %s: %w", what, m.config.Name, err)
	if ctx.Err() != nil {
		return err // the test is over
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.refused++
	switch {
	case m.leaving.Load():
		cs.underway++
	case cs.calm.Load():
		cs.t.Errorf("while no request may fail: %v", err)
	}
	return err
}

// done books a change that was acknowledged.
func (cs *clients) done() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.acked++
}

func (cs *clients) signIn(ctx context.Context, m *member, on string) (*user, error) {
	name := "user" + strconv.FormatInt(cs.next.Add(1), 10)
	status, body, header, err := m.ask(ctx, "POST", "/"+on+"/in?user="+name, "")
	token := header.Get("Session-Token")
	if err != nil || status != http.StatusOK || token == "" {
		return nil, cs.failed(ctx, m, "sign in", status, body, err)
	}
	cs.done()
	return &user{token: token, sent: map[int64]bool{}, acked: map[int64]time.Time{}}, nil
}

// signOut ends a session; it is asked for again until it is acknowledged.
func (cs *clients) signOut(ctx context.Context, m *member, on string, u *user) error {
	if m == nil {
		return errors.New("no node is ready")
	}
	u.mu.Lock()
	u.quits = true
	u.mu.Unlock()
	status, body, _, err := m.ask(ctx, "POST", "/"+on+"/out", u.token)
	if err != nil || status != http.StatusOK {
		return cs.failed(ctx, m, "sign out", status, body, err)
	}
	u.mu.Lock()
	u.out = time.Now()
	u.mu.Unlock()
	cs.done()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.leavers = append(cs.leavers, u)
	return nil
}

// add adds a number of its own to a session.
func (cs *clients) add(ctx context.Context, m *member, on string, u *user) error {
	n := cs.next.Add(1)
	u.mu.Lock()
	u.sent[n] = true
	u.mu.Unlock()
	status, body, _, err := m.ask(ctx, "POST", "/"+on+"/add?n="+strconv.FormatInt(n, 10), u.token)
	switch {
	case err == nil && status == http.StatusUnauthorized:
		cs.isOut(u, m, on)
		return errors.New("signed out")
	case err != nil || status != http.StatusOK:
		return cs.failed(ctx, m, "add", status, body, err)
	}
	u.mu.Lock()
	u.acked[n] = time.Now()
	u.mu.Unlock()
	cs.done()
	return nil
}

// isOut books that a node does not know a session.
func (cs *clients) isOut(u *user, m *member, on string) {
	u.mu.Lock()
	quits := u.quits
	u.mu.Unlock()
	if !quits {
		cs.mu.Lock()
		cs.lost++
		cs.mu.Unlock()
		cs.t.Errorf("%s on %s: a session that nobody ended is gone", on, m.config.Name)
	}
}

// bound is how old an answer may be.
func (cs *clients) bound(m *member, on string) time.Duration {
	if on == "strong" {
		return cs.strong
	}
	return m.config.MaxStale
}

// read reads a session and compares it with what was acknowledged before it was
// asked for. The numbers that are missing are returned by when they were.
func (cs *clients) read(ctx context.Context, m *member, on string, u *user) (status int, missing []int64) {
	began := time.Now()
	status, body, _, err := m.ask(ctx, "GET", "/"+on+"/read", u.token)
	switch {
	case err == nil && status == http.StatusUnauthorized:
		cs.isOut(u, m, on)
		return status, nil
	case err != nil || status != http.StatusOK:
		cs.failed(ctx, m, "read", status, body, err)
		return status, nil
	}
	var ns []int64
	if err := json.Unmarshal(body, &ns); err != nil {
		cs.t.Errorf("%s on %s: %v: %.80s", on, m.config.Name, err, body)
		return status, nil
	}
	var age, late time.Duration
	u.mu.Lock()
	slices.Sort(ns)
	for i, n := range ns {
		if !u.sent[n] || i > 0 && n == ns[i-1] {
			cs.t.Errorf("%s on %s: %d was not added, or twice", on, m.config.Name, n)
		}
	}
	for n, at := range u.acked {
		if _, there := slices.BinarySearch(ns, n); !there {
			missing = append(missing, n)
			age = max(age, began.Sub(at))
		}
	}
	if !u.out.IsZero() {
		late = max(0, began.Sub(u.out))
	}
	u.mu.Unlock()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.reads++
	cs.oldest = max(cs.oldest, age)
	if age > cs.bound(m, on) {
		cs.stale++
		cs.t.Errorf("%s on %s: the answer is %v old", on, m.config.Name, age)
	}
	cs.outAfter = max(cs.outAfter, late)
	if late > cs.bound(m, on) {
		cs.revived++
		cs.t.Errorf("%s on %s: a session that was signed out %v before is live", on, m.config.Name, late)
	}
	return status, missing
}

// progress waits until changes are acknowledged again.
func (cs *clients) progress() {
	cs.t.Helper()
	cs.mu.Lock()
	from := cs.acked
	cs.mu.Unlock()
	servers.Wait(cs.t, "progress", healing, func(context.Context) error {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		if cs.acked < from+100 {
			return fmt.Errorf("%d changes were acknowledged", cs.acked-from)
		}
		return nil
	})
}

// trouble runs f, while requests may fail.
func (cs *clients) trouble(f func()) {
	cs.t.Helper()
	cs.calm.Store(false)
	f()
	for _, m := range cs.cluster.members {
		cs.cluster.waitServing(m)
	}
}

// watch reads two sessions on a node without a pause, one of which has ended,
// until stop is closed.
func (cs *clients) watch(m *member, left *user, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
			cs.read(cs.t.Context(), m, mode(i), left)
			cs.read(cs.t.Context(), m, mode(i), cs.stayers[i%stayers])
		}
	}
}

// close ends the work, compares every session with its book, on every node, and
// writes a row of the table.
func (cs *clients) close(what string, ready time.Duration) {
	cs.t.Helper()
	cs.stop()
	cs.running.Wait()
	for _, m := range cs.cluster.members {
		cs.cluster.waitServing(m)
	}
	cs.calm.Store(false) // a busy machine is no failure
	for _, m := range cs.cluster.members {
		for on := range modes {
			for i, u := range cs.stayers {
				cs.compare(m, on, fmt.Sprintf("user %d", i), u)
			}
			for _, u := range cs.leavers {
				cs.gone(m, on, u)
			}
		}
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.lost > 0 || cs.revived > 0 || cs.stale > 0 {
		cs.t.Errorf("%d lost, %d revived, %d too old", cs.lost, cs.revived, cs.stale)
	}
	if cs.acked == 0 || cs.reads == 0 || len(cs.leavers) == 0 {
		cs.t.Errorf("%d changes, %d reads, %d sign-outs: nothing was tested", cs.acked, cs.reads, len(cs.leavers))
	}
	text := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	table.add(what, strconv.Itoa(cs.acked), strconv.Itoa(cs.refused), strconv.Itoa(cs.underway), text(cs.longest), strconv.Itoa(cs.reads),
		text(cs.oldest), text(cs.outAfter), text(ready), strconv.Itoa(cs.lost), strconv.Itoa(cs.revived), strconv.Itoa(cs.stale))
}

// compare reads until everything that was acknowledged is there; what never is
// is lost.
func (cs *clients) compare(m *member, on, who string, u *user) {
	cs.t.Helper()
	var missing []int64
	for deadline := time.Now().Add(healing); ; {
		var status int
		if status, missing = cs.read(cs.t.Context(), m, on, u); status == http.StatusOK && len(missing) == 0 {
			return
		}
		if status == http.StatusUnauthorized || status == http.StatusOK && time.Now().After(deadline.Add(m.config.MaxStale-healing)) || time.Now().After(deadline) {
			break
		}
		rest(cs.t.Context(), 4*pause)
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.lost += len(missing)
	cs.t.Errorf("%s on %s: %s: %d acknowledged changes are lost, such as %d", on, m.config.Name, who, len(missing), slices.Max(append(missing, 0)))
}

// gone looks until a session that was signed out is.
func (cs *clients) gone(m *member, on string, u *user) {
	cs.t.Helper()
	servers.Wait(cs.t, "a session that was signed out is not live", healing, func(ctx context.Context) error {
		if status, _ := cs.read(ctx, m, on, u); status != http.StatusUnauthorized {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
}
