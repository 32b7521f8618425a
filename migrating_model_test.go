package session_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
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

var migratingSeed = flag.Uint64("migrating.seed", 0, "run this one schedule of TestMigratingModel and tell its steps")

// onceFailed are schedules in which the session came back, or what had ended
// was listed, until moves had names.
var onceFailed = []uint64{2815, 6072, 10712, 12194, 14999, 22521, 35202, 47233}

// Several requests on nodes of both kinds use, move and end one session. Each
// of their calls of a store waits for its turn, and the seed decides whose turn
// it is: whatever can happen between two calls happens in some schedule. After
// each, everybody has to agree on what was acknowledged.
func TestMigratingModel(t *testing.T) {
	first, last := uint64(1), uint64(1500)
	if testing.Short() {
		last = 300
	}
	if *migratingSeed > 0 {
		first, last = *migratingSeed, *migratingSeed
	}
	synctest.Test(t, func(t *testing.T) {
		void := 0
		seeds := slices.Clone(onceFailed)
		if *migratingSeed > 0 {
			seeds = nil
		}
		for seed := first; seed <= last; seed++ {
			seeds = append(seeds, seed)
		}
		for _, seed := range seeds {
			m := newModel(t, seed)
			m.run()
			switch {
			case m.void:
				void++
			case m.failed:
				t.Fatalf("seed %d (-args -migrating.seed=%d):\n%s", seed, seed, strings.Join(m.log, "\n"))
			}
		}
		if void > 10 {
			t.Errorf("%d schedules say nothing", void)
		}
	})
}

// model is one schedule: a session, the stores that it may be in, and what is
// known about it.
type model struct {
	t      *testing.T
	rand   *rand.Rand
	log    []string
	failed bool

	// made counts how often a store got a record under the ID. One that was
	// ended and made again may have the version that the one before had, and
	// no compare-and-set tells the two apart (see migrating_move.go). A
	// schedule in which that happens is void.
	made map[string]int
	void bool

	old, new  *session.MemoryStore
	kinds     []kind
	id, token string
	mu        sync.Mutex
	waiting   []*turn
	visiting  int  // those that visit the stores one after the other
	faults    bool // answers are lost, calls are late, nodes die
	acked     int  // additions that were acknowledged
	unknown   int  // additions whose answer was lost
	ending    int  // operations that end the session, begun and not known to have failed
	ended     bool // one has succeeded
	hours     int
}

// kind is a kind of node: the store that it has, made of its own handles of old
// and new.
type kind struct {
	name string
	open func(old, new session.Store) session.Store
}

// turn is a call of a store that waits.
type turn struct {
	who, what string
	take      chan struct{}
}

var (
	errModelLost = errors.New("the answer was lost")
	errModelDied = errors.New("the node died")
)

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rand: rand.New(rand.NewPCG(seed, 0)), made: map[string]int{}, old: session.NewMemoryStore(nil), new: session.NewMemoryStore(nil)}
	oldOnly := kind{"old", func(old, _ session.Store) session.Store { return old }}
	newOnly := kind{"new", func(_, new session.Store) session.Store { return new }}
	toOld := kind{"toOld", func(old, new session.Store) session.Store { return migrate(t, old, new) }}
	toNew := kind{"toNew", func(old, new session.Store) session.Store { return migrate(t, new, old) }}
	m.faults = m.rand.IntN(2) == 0
	switch m.rand.IntN(8) {
	case 0: // the first roll-out
		m.kinds = []kind{oldOnly, toOld}
		m.begin(m.old)
	case 1: // the third: old is empty
		m.kinds = []kind{toNew, newOnly}
		m.begin(m.old)
		load(t, migrate(t, m.new, m.old), m.token)
	default: // the second
		m.kinds = []kind{toOld, toNew}
		m.begin([]session.Store{m.old, m.new}[m.rand.IntN(2)])
		for range m.rand.IntN(3) { // it has moved before, perhaps long ago
			load(t, m.node(), m.token)
			if m.rand.IntN(2) == 0 {
				time.Sleep(61 * time.Minute)
			}
		}
	}
	return m
}

// begin makes the session.
func (m *model) begin(s session.Store) {
	rec, token := draft()
	rec.Data, rec.Expires, rec.Deadline = []byte("0"), rec.Created.Add(20*time.Hour), rec.Created.Add(40*time.Hour)
	if _, err := s.Save(m.t.Context(), rec); err != nil {
		m.t.Fatal(err)
	}
	m.id, m.token = rec.ID, token
}

// node is a node of some kind whose calls are never held up.
func (m *model) node() session.Store {
	return m.kinds[m.rand.IntN(len(m.kinds))].open(m.old, m.new)
}

func (m *model) errorf(format string, args ...any) {
	m.failed = true
	m.log = append(m.log, "FAILED: "+fmt.Sprintf(format, args...))
}

func (m *model) run() {
	operations := []operation{
		{"load", 4, false, func(o *op) { o.load() }},
		{"add", 4, false, (*op).add},
		{"move all", 1, false, (*op).moveAll},
		{"touch", 1, true, (*op).touch},
		{"list", 1, true, (*op).list},
		{"delete", 1, true, (*op).delete},
		{"delete user", 1, true, (*op).deleteUser},
		{"sign in", 1, false, (*op).replace},
	}
	for i := range 2 + m.rand.IntN(3) {
		m.start(strconv.Itoa(i), draw(m.rand, operations, func(o operation) int { return o.weight }), m.kinds[m.rand.IntN(len(m.kinds))])
	}
	for m.step() {
	}
	m.check("at the end")
	for range 2 {
		time.Sleep(61 * time.Minute)
		m.check("an hour later")
	}
	if m.kinds[0].name != "old" { // not before every node has old behind new
		if _, err := session.MoveAll(m.t.Context(), migrate(m.t, m.new, m.old)); err != nil {
			m.errorf("MoveAll at the end: %v", err)
		}
		m.check("after MoveAll")
	}
	for _, s := range []*session.MemoryStore{m.old, m.new} {
		s.Close()
	}
}

func draw[T any](r *rand.Rand, from []T, weight func(T) int) T {
	sum := 0
	for _, v := range from {
		sum += weight(v)
	}
	n := r.IntN(sum)
	for _, v := range from {
		if n -= weight(v); n < 0 {
			return v
		}
	}
	panic("unreachable")
}

// step lets one call happen; false if none is left.
func (m *model) step() bool {
	time.Sleep(time.Second) // who backs off comes to its next call
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 {
		return false
	}
	// A call may be held up for hours. But nothing that visits the stores one
	// after the other is: its context has a deadline.
	if m.visiting == 0 && m.hours < 3 && m.rand.IntN(25) == 0 {
		m.hours++
		m.log = append(m.log, "an hour passes")
		time.Sleep(61 * time.Minute) // everybody waits for a turn
	}
	slices.SortFunc(m.waiting, func(a, b *turn) int { return cmp.Compare(a.who, b.who) })
	i := m.rand.IntN(len(m.waiting))
	next := m.waiting[i]
	m.waiting = slices.Delete(m.waiting, i, i+1)
	m.log = append(m.log, next.who+": "+next.what)
	close(next.take)
	return true
}

// op is one operation of one node.
type op struct {
	*model
	who   string
	store session.Store
	dead  bool
	knows map[string]int // which record of a store it builds on, as in made
}

type operation struct {
	name   string
	weight int
	visits bool
	run    func(*op)
}

func (m *model) start(who string, what operation, on kind) {
	o := &op{model: m, who: who, knows: map[string]int{}}
	o.store = on.open(o.handle("old", m.old), o.handle("new", m.new))
	m.log = append(m.log, fmt.Sprintf("%s is: %s on %s", who, what.name, on.name))
	if what.visits {
		m.visiting++
	}
	begins := o.queue("begins")
	go func() {
		<-begins.take
		what.run(o)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.log = append(m.log, who+" is done")
		if what.visits {
			m.visiting--
		}
	}()
}

// queue asks for a turn, which has come when the turn's channel is closed.
func (o *op) queue(what string) *turn {
	t := &turn{o.who, what, make(chan struct{})}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, t)
	return t
}

func (o *op) wait(what string) { <-o.queue(what).take }

// handle is the node's handle of a store.
func (o *op) handle(name string, s *session.MemoryStore) session.Store {
	f := storetest.NewFaulty(s)
	for _, method := range []storetest.Method{storetest.Load, storetest.Save, storetest.Delete, storetest.Touch, storetest.List, storetest.DeleteUser, storetest.Scan} {
		what := name + "." + string(method)
		writes := method == storetest.Save || method == storetest.Delete
		f.Set(method, func(_ context.Context, _ int, call func() error) error {
			o.wait(what)
			call = o.watch(method, name, s, call)
			if !o.faults {
				return call()
			}
			switch n := o.rand.IntN(40); {
			case o.dead || n == 0:
				o.dead = true
				return errModelDied
			case n == 1:
				o.log = append(o.log, "   and its answer is lost")
				if err := call(); err != nil {
					return err
				}
				return errModelLost
			case n == 2 && writes:
				o.log = append(o.log, "   and it is late")
				late := &op{model: o.model, who: o.who + "'s late call", knows: o.knows}
				arrives := late.queue(what)
				go func() {
					<-arrives.take
					call()
					o.mu.Lock()
					//lint:ignore SA2001 for the race detector: what it did comes before the next turn
					o.mu.Unlock()
				}()
				return errModelLost
			}
			return call()
		})
	}
	return f
}

// watch keeps made and knows, and finds out that a schedule is void.
func (o *op) watch(method storetest.Method, name string, s *session.MemoryStore, call func() error) func() error {
	return func() error {
		before := s.Len()
		if method == storetest.Scan {
			o.knows[name] = o.made[name]
		}
		err := call()
		switch {
		case err != nil:
		case method == storetest.Load:
			o.knows[name] = o.made[name]
		case method == storetest.Save && s.Len() > before:
			o.made[name]++
			o.knows[name] = o.made[name]
		case method == storetest.Save && o.knows[name] != o.made[name]:
			o.void = true
		}
		return err
	}
}

// saw checks an answer about the session. ended and acked are what was known
// when it was asked for.
func (o *op) saw(what string, rec *session.Record, err error, ended bool, acked int) (live bool) {
	switch {
	case errors.Is(err, session.ErrNotFound), err == nil && rec.Replaced:
		if o.ending == 0 {
			o.errorf("%s %s: signed out: %+v, %v", o.who, what, rec, err)
		}
		return false
	case err != nil:
		if !o.faults {
			o.errorf("%s %s: %v", o.who, what, err)
		}
		return false
	case ended:
		o.errorf("%s %s: it is back: %+v", o.who, what, rec)
		return false
	}
	if n := number(rec); n < acked || rec.User != "ann" || rec.Device != "Firefox" {
		o.errorf("%s %s: %+v with %s; %d additions were acknowledged", o.who, what, rec, rec.Data, acked)
	}
	return true
}

func number(rec *session.Record) int {
	n, err := strconv.Atoi(string(rec.Data))
	if err != nil {
		panic(err)
	}
	return n
}

func (o *op) load() (*session.Record, bool) {
	ended, acked := o.ended, o.acked
	rec, err := o.store.Load(o.t.Context(), o.token)
	return rec, o.saw("load", rec, err, ended, acked)
}

func (o *op) add() {
	for range 20 {
		rec, ok := o.load()
		if !ok {
			return
		}
		ended := o.ended
		next := *rec
		next.Data = []byte(strconv.Itoa(number(rec) + 1))
		_, err := o.store.Save(o.t.Context(), &next)
		switch {
		case err == nil && ended:
			o.errorf("%s: saved what had ended", o.who)
			return
		case err == nil:
			o.acked++
			return
		case errors.Is(err, session.ErrConflict):
			continue
		case errors.Is(err, session.ErrNotFound):
			o.saw("save", nil, err, ended, 0)
			return
		default:
			o.unknown++
			o.saw("save", nil, err, ended, 0)
			return
		}
	}
	o.errorf("%s: too many conflicts", o.who)
}

func (o *op) touch() {
	rec, ok := o.load()
	if !ok {
		return
	}
	toucher, _ := session.As[session.Toucher](o.store)
	err := toucher.Touch(o.t.Context(), o.id, time.Now(), time.Now().Add(20*time.Hour))
	if err != nil {
		o.saw("touch", rec, err, false, 0)
	}
}

func (o *op) list() {
	before := o.ending
	found := 0
	for info, err := range session.List(o.t.Context(), o.store, "ann") {
		if err != nil {
			o.saw("list", nil, err, false, 0)
			return
		}
		if info.ID != o.id || info.Device != "Firefox" {
			o.errorf("%s: listed %+v", o.who, info)
		}
		found++
	}
	if found > 1 || found == 0 && before == 0 && o.ending == 0 {
		o.errorf("%s: listed %d times", o.who, found)
	}
}

func (o *op) moveAll() {
	_, err := session.MoveAll(o.t.Context(), o.store)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) && !o.faults {
		o.errorf("%s: MoveAll: %v", o.who, err)
	}
}

func (o *op) end(err error) {
	if err == nil {
		o.ended = true
	} else if !o.faults {
		o.errorf("%s: %v", o.who, err)
	}
}

func (o *op) delete() {
	o.ending++
	o.end(o.store.Delete(o.t.Context(), o.id))
}

func (o *op) deleteUser() {
	o.ending++
	_, err := session.DeleteUser(o.t.Context(), o.store, "ann", "")
	o.end(err)
}

// replace puts a marker in the session's place, as a sign-in does.
func (o *op) replace() {
	for range 20 {
		rec, ok := o.load()
		if !ok {
			return
		}
		marker := *rec
		marker.User, marker.Data, marker.Replaced, marker.Device = "", nil, true, session.ID("next")
		marker.Expires = time.Now().Add(time.Minute)
		o.ending++
		_, err := o.store.Save(o.t.Context(), &marker)
		switch {
		case errors.Is(err, session.ErrConflict):
			o.ending--
			continue
		case errors.Is(err, session.ErrNotFound):
			o.ending--
			o.saw("claim", nil, err, false, 0)
			return
		}
		o.end(err)
		return
	}
	o.errorf("%s: too many conflicts", o.who)
}

// check asks nodes of every kind when all is quiet.
func (m *model) check(when string) {
	kinds := slices.Clone(m.kinds)
	m.rand.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	first := ""
	for _, k := range kinds {
		s := k.open(m.old, m.new)
		rec, err := s.Load(m.t.Context(), m.token)
		over := errors.Is(err, session.ErrNotFound) || err == nil && rec.Replaced
		var listed []string
		if !(m.faults && over) { // what a dead node has left is listed until it expires
			listed = devices(m.t, s, "ann")
		}
		switch {
		case err != nil && !over:
			m.errorf("%s, on %s: %v", when, k.name, err)
		case over && m.ending == 0:
			m.errorf("%s, on %s: signed out: %+v, %v", when, k.name, rec, err)
		case !over && m.ended:
			m.errorf("%s, on %s: it is back: %+v", when, k.name, rec)
		case over && len(listed) > 0, !over && !slices.Equal(listed, []string{m.id + " Firefox"}):
			m.errorf("%s, on %s: listed: %v", when, k.name, listed)
		case !over && (number(rec) < m.acked || number(rec) > m.acked+m.unknown):
			m.errorf("%s, on %s: %s; %d additions were acknowledged, %d failed", when, k.name, rec.Data, m.acked, m.unknown)
		}
		is := "live"
		if over {
			is = "over"
		}
		if first == "" {
			first = is
		} else if is != first {
			m.errorf("%s: on %s it is %s, on the other kind %s", when, k.name, is, first)
		}
	}
}
