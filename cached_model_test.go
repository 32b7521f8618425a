package session_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

var cachedSeed = flag.Uint64("cached.seed", 0, "run this one schedule of TestCachedModel and tell its steps")

// Several browsers use one session on several nodes with copies, over one backup
// whose answers are lost and come late. Each call of the backup waits for its
// turn before it and after it, and the seed decides whose turn it is and how much
// time goes by. Every read is held against all that the backup has ever held.
func TestCachedModel(t *testing.T) {
	first, last := uint64(1), uint64(2000)
	if testing.Short() {
		last = 400
	}
	if *cachedSeed > 0 {
		first, last = *cachedSeed, *cachedSeed
	}
	synctest.Test(t, func(t *testing.T) {
		var hits, ends int
		for seed := first; seed <= last; seed++ {
			m := newCachedModel(t, seed)
			m.run()
			if m.failed || *cachedSeed > 0 {
				t.Fatalf("seed %d (-args -cached.seed=%d):\n%s", seed, seed, strings.Join(m.log, "\n"))
			}
			hits += m.hits
			if m.history[len(m.history)-1].version == 0 {
				ends++
			}
		}
		// The schedules that this is about do happen.
		if n := int(last-first) + 1; n > 1 && (hits < n || ends < n/8) {
			t.Errorf("%d hits and %d ends in %d schedules", hits, ends, n)
		}
	})
}

const modelStale = 10 * time.Second

// cachedModel is one schedule.
type cachedModel struct {
	t      *testing.T
	rand   *rand.Rand
	log    []string
	failed bool

	memory    *session.MemoryStore
	nodes     []session.Store
	id, token string
	faults    bool
	spare     time.Duration // StaleIfDown

	mu      sync.Mutex
	waiting []*turn
	acked   int // additions that were acknowledged
	unknown int // additions whose answer was lost
	hits    int
	calls   int

	// What the backup held, and since when; version 0 when it had ended.
	history []held
}

type held struct {
	since   time.Time
	version int64
}

func newCachedModel(t *testing.T, seed uint64) *cachedModel {
	m := &cachedModel{t: t, rand: rand.New(rand.NewPCG(seed, 1)), memory: session.NewMemoryStore(nil)}
	m.faults = m.rand.IntN(2) == 0
	if m.rand.IntN(4) == 0 {
		m.spare = 30 * time.Second
	}
	rec, token := draft()
	rec.Data, rec.Expires, rec.Deadline = []byte("0"), rec.Created.Add(20*time.Hour), rec.Created.Add(40*time.Hour)
	mustSave(t, m.memory, rec)
	m.id, m.token = rec.ID, token
	m.history = []held{{time.Now(), 1}}
	for i := range 3 {
		m.nodes = append(m.nodes, session.Cached(m.handle(i), &session.CachedOptions{MaxStale: modelStale, StaleIfDown: m.spare}))
	}
	return m
}

func (m *cachedModel) errorf(format string, args ...any) {
	m.failed = true
	m.log = append(m.log, "FAILED: "+fmt.Sprintf(format, args...))
}

// handle is a node's backup: its calls take turns.
func (m *cachedModel) handle(node int) session.Store {
	f := storetest.NewFaulty(m.memory)
	for _, method := range []storetest.Method{storetest.Load, storetest.Save, storetest.Delete, storetest.Touch, storetest.DeleteUser} {
		what := fmt.Sprintf("node %d's %s", node, method)
		f.Set(method, func(_ context.Context, _ int, call func() error) error {
			m.wait(what)
			m.calls++
			fault := 0
			if m.faults {
				fault = m.rand.IntN(12)
			}
			if fault == 1 {
				m.log = append(m.log, "   and does not reach the backup")
				return errModelLost
			}
			err := call()
			m.record()
			if m.rand.IntN(2) == 0 {
				m.wait(what + "'s answer")
			}
			if fault == 2 {
				m.log = append(m.log, "   and is lost")
				return errModelLost
			}
			return err
		})
	}
	return f
}

// record notes what the backup holds.
func (m *cachedModel) record() {
	version := int64(0)
	if rec, err := m.memory.Load(m.t.Context(), m.token); err == nil {
		version = rec.Version
	}
	if m.history[len(m.history)-1].version != version {
		m.history = append(m.history, held{time.Now(), version})
		m.log = append(m.log, fmt.Sprintf("   now it is version %d", version))
	}
}

// heldAt is what the backup held at a time.
func (m *cachedModel) heldAt(at time.Time) int64 {
	version := m.history[0].version
	for _, h := range m.history {
		if h.since.After(at) {
			break
		}
		version = h.version
	}
	return version
}

// wait asks for a turn and waits for it.
func (m *cachedModel) wait(what string) {
	t := &turn{what, what, make(chan struct{})}
	m.mu.Lock()
	m.waiting = append(m.waiting, t)
	m.mu.Unlock()
	<-t.take
}

// step gives one turn; false if nobody waits.
func (m *cachedModel) step() bool {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 {
		return false
	}
	if d := []time.Duration{0, 0, 0, 0, time.Second, 4 * time.Second, 11 * time.Second}[m.rand.IntN(7)]; d > 0 {
		m.log = append(m.log, d.String()+" pass")
		time.Sleep(d) // everybody waits for a turn
	}
	slices.SortStableFunc(m.waiting, func(a, b *turn) int { return cmp.Compare(a.what, b.what) })
	i := m.rand.IntN(len(m.waiting))
	next := m.waiting[i]
	m.waiting = slices.Delete(m.waiting, i, i+1)
	m.log = append(m.log, next.what)
	close(next.take)
	return true
}

func (m *cachedModel) run() {
	for i := range 2 + m.rand.IntN(3) {
		c := &modelBrowser{cachedModel: m, name: "browser " + strconv.Itoa(i), seen: 1, own: map[int]int64{}}
		go c.run()
	}
	for m.step() {
	}
	time.Sleep(modelStale + m.spare)
	// When all is quiet everybody agrees.
	truth, errTruth := m.memory.Load(m.t.Context(), m.token)
	if errTruth == nil && !truth.Replaced {
		if n := number(truth); n < m.acked || n > m.acked+m.unknown {
			m.errorf("%d additions were acknowledged, %d failed, and it is %d", m.acked, m.unknown, n)
		}
	}
	for i, s := range m.nodes {
		m.faults = false
		var rec *session.Record
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			rec, err = s.Load(m.t.Context(), m.token)
		}()
		for m.step() {
		}
		<-done
		if (err == nil) != (errTruth == nil) || err == nil && (rec.Version != truth.Version || string(rec.Data) != string(truth.Data)) {
			m.errorf("at the end node %d shows %+v, %v; the backup %+v, %v", i, rec, err, truth, errTruth)
		}
		session.Close(s)
	}
}

// modelBrowser is one client. It sends one request after the other, each to any
// node, and keeps the version that it has seen.
type modelBrowser struct {
	*cachedModel
	name string
	seen int64
	own  map[int]int64 // by node: what was saved or read there last

	node int
}

func (b *modelBrowser) run() {
	requests := []struct {
		name   string
		weight int
		do     func(*modelBrowser)
	}{
		{"reads", 8, func(b *modelBrowser) { b.read(b.seen) }},
		{"reads without its version", 4, func(b *modelBrowser) { b.read(0) }},
		{"invents a version", 1, func(b *modelBrowser) {
			b.read([]int64{2, 3, 4, 5, 1 << 30, 1<<62 + 1, math.MaxInt64}[b.rand.IntN(7)])
		}},
		{"adds", 6, (*modelBrowser).add},
		{"touches", 2, (*modelBrowser).touch},
		{"signs out", 1, (*modelBrowser).signOut},
		{"signs out everywhere", 1, (*modelBrowser).signOutEverywhere},
		{"is replaced", 1, (*modelBrowser).replace},
	}
	for range 5 {
		b.wait(b.name + "'s next request")
		b.node = b.rand.IntN(len(b.nodes))
		r := draw(b.rand, requests, func(r struct {
			name   string
			weight int
			do     func(*modelBrowser)
		}) int {
			return r.weight
		})
		b.log = append(b.log, fmt.Sprintf("%s %s on node %d", b.name, r.name, b.node))
		r.do(b)
	}
}

// load is a load by a request, held against what it must show.
func (b *modelBrowser) load(version int64) (*session.Record, bool) {
	node, start, calls := b.node, time.Now(), b.calls
	least, seen := b.own[node], b.seen
	loader, _ := session.As[session.AtLeaster](b.nodes[node])
	rec, err := loader.LoadAtLeast(b.t.Context(), b.token, version)
	if calls == b.calls && err == nil {
		b.hits++
	}
	stale := modelStale
	if b.spare > 0 {
		stale += b.spare // while the backup fails; the schedule says when
	}
	atLeast := b.heldAt(start.Add(-stale))
	switch {
	case errors.Is(err, session.ErrNotFound):
		if b.history[len(b.history)-1].version != 0 {
			b.errorf("%s: signed out: %v", b.name, err)
		}
		return nil, false
	case err != nil:
		if !b.faults {
			b.errorf("%s: %v", b.name, err)
		}
		return nil, false
	case atLeast == 0:
		b.errorf("%s: read %d; it had ended %v before", b.name, rec.Version, stale)
	case rec.Version < atLeast:
		b.errorf("%s: read %d; %v before it was %d already", b.name, rec.Version, stale, atLeast)
	case version == seen && rec.Version < seen:
		b.errorf("%s: read %d, and has seen %d", b.name, rec.Version, seen)
	case rec.Version < least:
		b.errorf("%s: read %d, where it has read or written %d", b.name, rec.Version, least)
	case !slices.ContainsFunc(b.history, func(h held) bool { return h.version == rec.Version }):
		b.errorf("%s: read %d, which never was", b.name, rec.Version)
	}
	b.saw(node, rec.Version)
	return rec, !rec.Replaced
}

func (b *modelBrowser) read(version int64) { b.load(version) }

// saw notes what a node has shown the browser: it does not go back.
func (b *modelBrowser) saw(node int, version int64) {
	b.own[node] = max(b.own[node], version)
}

func (b *modelBrowser) save(rec *session.Record) error {
	node := b.node
	_, err := b.nodes[node].Save(b.t.Context(), rec)
	if err == nil {
		b.seen = max(b.seen, rec.Version+1)
		b.saw(node, rec.Version+1)
	}
	return err
}

// add is an update as the manager does it.
func (b *modelBrowser) add() {
	version := b.seen
	for range 30 {
		rec, ok := b.load(version)
		if !ok {
			return
		}
		next := *rec
		next.Data = []byte(strconv.Itoa(number(rec) + 1))
		switch err := b.save(&next); {
		case err == nil:
			b.acked++
			return
		case errors.Is(err, session.ErrConflict):
			version = max(version, rec.Version+1)
		case errors.Is(err, session.ErrNotFound):
			if b.history[len(b.history)-1].version != 0 {
				b.errorf("%s: signed out: %v", b.name, err)
			}
			return
		default:
			b.unknown++
			return
		}
	}
	b.errorf("%s: too many conflicts", b.name)
}

func (b *modelBrowser) touch() {
	rec, ok := b.load(b.seen)
	if !ok {
		return
	}
	toucher, _ := session.As[session.Toucher](b.nodes[b.node])
	now := time.Now()
	err := toucher.Touch(b.t.Context(), b.id, now, now.Add(20*time.Hour))
	if errors.Is(err, session.ErrNotFound) && b.history[len(b.history)-1].version == rec.Version {
		b.errorf("%s: touch: %v", b.name, err)
	}
}

// ended checks that the next request on the node where the session was ended finds
// nothing, however fresh its copies were; but for a marker, which DeleteUser passes
// over.
func (b *modelBrowser) ended(node int, err error) {
	if err != nil {
		return
	}
	if rec, err := b.nodes[node].Load(b.t.Context(), b.token); err == nil && !rec.Replaced {
		b.errorf("%s: after its sign-out the same node shows version %d", b.name, rec.Version)
	}
}

func (b *modelBrowser) signOut() {
	node := b.node
	b.ended(node, b.nodes[node].Delete(b.t.Context(), b.id))
}

func (b *modelBrowser) signOutEverywhere() {
	node := b.node
	_, err := session.DeleteUser(b.t.Context(), b.nodes[node], "ann", "")
	b.ended(node, err)
}

// replace puts a marker in the session's place, as a sign-in does.
func (b *modelBrowser) replace() {
	rec, ok := b.load(b.seen)
	if !ok {
		return
	}
	marker := *rec
	marker.User, marker.Data, marker.Replaced, marker.Device = "", nil, true, session.ID("next")
	marker.Expires = time.Now().Add(20 * time.Hour)
	if err := b.save(&marker); err == nil {
		if after, ok := b.load(b.seen); ok && after != nil {
			b.errorf("%s: after it was replaced the same node shows version %d", b.name, after.Version)
		}
	}
}
