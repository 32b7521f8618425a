package storetest

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/distsession/session"
)

// A Method names a method of session.Store or of an ability.
type Method string

// The methods that a Faulty counts and can fault.
const (
	Load        Method = "Load"
	Save        Method = "Save"
	Delete      Method = "Delete"
	Touch       Method = "Touch"
	List        Method = "List"
	DeleteUser  Method = "DeleteUser"
	Scan        Method = "Scan"
	LoadAtLeast Method = "LoadAtLeast"
	Clean       Method = "Clean"
	Lease       Method = "Lease"
)

// A Fault is what happens to a call. It runs in the place of the call, and
// call makes the real one: a fault that does not run call keeps it from the
// store, and one that runs call and returns another error loses the answer. n
// counts the calls of the method since the fault was set, from 1.
//
// Fail, Conflict, Stall, LoseAnswer and a Gate's methods are faults; Nth
// narrows one. Any function will do:
//
//	slow := func(ctx context.Context, n int, call func() error) error {
//		time.Sleep(50 * time.Millisecond)
//		return call()
//	}
type Fault func(ctx context.Context, n int, call func() error) error

// Fail keeps the call from the store and answers err.
func Fail(err error) Fault {
	return func(context.Context, int, func() error) error { return err }
}

// Conflict answers that another request was first, as a busy session's Save
// does: ErrConflict.
func Conflict() Fault { return Fail(session.ErrConflict) }

// Stall keeps the call from the store until the context ends and answers the
// context's error, like a server behind a cable that was pulled.
func Stall() Fault {
	return func(ctx context.Context, _ int, _ func() error) error {
		<-ctx.Done()
		return ctx.Err()
	}
}

// LoseAnswer lets the call happen and answers err, like a connection that
// breaks after the server has written.
func LoseAnswer(err error) Fault {
	return func(_ context.Context, _ int, call func() error) error {
		if e := call(); e != nil {
			return e
		}
		return err
	}
}

// Nth makes a fault happen to the n-th call alone, counted from 1.
func Nth(n int, f Fault) Fault {
	return func(ctx context.Context, at int, call func() error) error {
		if at != n {
			return call()
		}
		return f(ctx, at, call)
	}
}

// First makes a fault happen to the first n calls.
func First(n int, f Fault) Fault {
	return func(ctx context.Context, at int, call func() error) error {
		if at > n {
			return call()
		}
		return f(ctx, at, call)
	}
}

// A Gate holds calls up, so that a test decides which of two requests comes
// first. Both its Faults give up when the call's context ends.
//
//	gate := storetest.NewGate()
//	faulty.Set(storetest.Save, gate.Before)
//	go slowRequest()
//	<-gate.Arrived() // it is about to save
//	signOut()
//	gate.Open()
type Gate struct {
	arrived chan struct{}
	open    chan struct{}
	once    sync.Once
}

// NewGate returns a closed gate.
func NewGate() *Gate {
	return &Gate{arrived: make(chan struct{}, 1024), open: make(chan struct{})}
}

// Before is the Fault that holds a call up on its way to the store.
func (g *Gate) Before(ctx context.Context, _ int, call func() error) error {
	if err := g.wait(ctx); err != nil {
		return err
	}
	return call()
}

// After is the Fault that holds the answer up on its way back: the store has
// done its work.
func (g *Gate) After(ctx context.Context, _ int, call func() error) error {
	err := call()
	if e := g.wait(ctx); e != nil {
		return e
	}
	return err
}

func (g *Gate) wait(ctx context.Context) error {
	select {
	case <-g.open:
		return nil
	case g.arrived <- struct{}{}:
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Arrived gets a value for every call that the gate holds up.
func (g *Gate) Arrived() <-chan struct{} { return g.arrived }

// Open lets all calls go, those that wait and those that come.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// Faulty is a Store around a Store that fails, stalls or conflicts on demand,
// and counts the calls. Without a fault it changes nothing. Put it between the
// manager and the store to see what a program does in bad times:
//
//	faulty := storetest.NewFaulty(session.NewMemoryStore(nil))
//	m, err := session.New(faulty, nil)
//	…
//	faulty.Set(storetest.Load, storetest.Fail(errors.New("connection refused")))
//	// now every page that looks at the session must be the failure page
//	faulty.Heal()
//
// session.As finds through it exactly the abilities that the inner store has,
// and their calls are counted and faulted too.
type Faulty struct {
	inner  session.Store
	chain  session.Store // one link for each ability of inner, then inner
	mu     sync.Mutex
	faults map[Method]*setFault
	calls  map[Method]int
}

type setFault struct {
	fault Fault
	n     int
}

// NewFaulty wraps s, for now without a fault.
func NewFaulty(s session.Store) *Faulty {
	f := &Faulty{inner: s, faults: map[Method]*setFault{}, calls: map[Method]int{}}
	f.chain = f.links()
	return f
}

// Set makes fault happen to every call of the method from now on, in the place
// of what was set before; nil heals the method.
func (f *Faulty) Set(m Method, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fault == nil {
		delete(f.faults, m)
		return
	}
	f.faults[m] = &setFault{fault: fault}
}

// SetAll makes fault happen to every method: the store is away.
func (f *Faulty) SetAll(fault Fault) {
	for _, m := range []Method{Load, Save, Delete, Touch, List, DeleteUser, Scan, LoadAtLeast, Clean, Lease} {
		f.Set(m, fault)
	}
}

// Heal takes all faults away. Calls that a fault holds up stay held up.
func (f *Faulty) Heal() { f.SetAll(nil) }

// Calls tells how often these methods were called since the last Reset, faulted
// calls included; without an argument, how often any was.
func (f *Faulty) Calls(methods ...Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	if len(methods) == 0 {
		for _, calls := range f.calls {
			n += calls
		}
	}
	for _, m := range methods {
		n += f.calls[m]
	}
	return n
}

// Reset sets the counts to zero; the faults stay.
func (f *Faulty) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.calls)
}

// do counts a call and makes it, or what is set in its place.
func (f *Faulty) do(ctx context.Context, m Method, call func() error) error {
	f.mu.Lock()
	f.calls[m]++
	set := f.faults[m]
	n := 0
	if set != nil {
		set.n++
		n = set.n
	}
	f.mu.Unlock()
	if set == nil {
		return call()
	}
	return set.fault(ctx, n, call)
}

// Load implements session.Store.
func (f *Faulty) Load(ctx context.Context, token string) (rec *session.Record, err error) {
	err = f.do(ctx, Load, func() error {
		rec, err = f.inner.Load(ctx, token)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// Save implements session.Store.
func (f *Faulty) Save(ctx context.Context, rec *session.Record) (token string, err error) {
	err = f.do(ctx, Save, func() error {
		token, err = f.inner.Save(ctx, rec)
		return err
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

// Delete implements session.Store.
func (f *Faulty) Delete(ctx context.Context, id string) error {
	return f.do(ctx, Delete, func() error { return f.inner.Delete(ctx, id) })
}

// Unwrap leads session.As to the abilities of the inner store, and at last to
// the inner store itself.
func (f *Faulty) Unwrap() session.Store { return f.chain }

// links builds the chain that As walks. One type with every method would claim
// abilities that the inner store lacks; a link has the method of one ability,
// and is there only if the inner store has it too.
func (f *Faulty) links() session.Store {
	s := f.inner
	if to, ok := session.As[session.Toucher](f.inner); ok {
		s = &toucher{link{f, s}, to}
	}
	if to, ok := session.As[session.Lister](f.inner); ok {
		s = &lister{link{f, s}, to}
	}
	if to, ok := session.As[session.UserDeleter](f.inner); ok {
		s = &userDeleter{link{f, s}, to}
	}
	if to, ok := session.As[session.Scanner](f.inner); ok {
		s = &scanner{link{f, s}, to}
	}
	if to, ok := session.As[session.AtLeaster](f.inner); ok {
		s = &atLeaster{link{f, s}, to}
	}
	if to, ok := session.As[session.Cleaner](f.inner); ok {
		s = &cleaner{link{f, s}, to}
	}
	if to, ok := session.As[session.Leaser](f.inner); ok {
		s = &leaser{link{f, s}, to}
	}
	return s
}

// link is a Store, for As asks for one; its three methods are the Faulty's.
type link struct {
	*Faulty
	next session.Store
}

func (l *link) Unwrap() session.Store { return l.next }

type (
	toucher struct {
		link
		to session.Toucher
	}
	lister struct {
		link
		to session.Lister
	}
	userDeleter struct {
		link
		to session.UserDeleter
	}
	scanner struct {
		link
		to session.Scanner
	}
	atLeaster struct {
		link
		to session.AtLeaster
	}
	cleaner struct {
		link
		to session.Cleaner
	}
	leaser struct {
		link
		to session.Leaser
	}
)

func (l *toucher) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	return l.do(ctx, Touch, func() error { return l.to.Touch(ctx, id, seen, expires) })
}

func (l *lister) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return sequence(ctx, l.Faulty, List, func() iter.Seq2[session.Info, error] { return l.to.List(ctx, user) })
}

func (l *userDeleter) DeleteUser(ctx context.Context, user, keep string) (n int, err error) {
	err = l.do(ctx, DeleteUser, func() error {
		n, err = l.to.DeleteUser(ctx, user, keep)
		return err
	})
	return n, err
}

func (l *scanner) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return sequence(ctx, l.Faulty, Scan, func() iter.Seq2[*session.Record, error] { return l.to.Scan(ctx) })
}

func (l *atLeaster) LoadAtLeast(ctx context.Context, token string, version int64) (rec *session.Record, err error) {
	err = l.do(ctx, LoadAtLeast, func() error {
		rec, err = l.to.LoadAtLeast(ctx, token, version)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

func (l *cleaner) Clean(ctx context.Context, now time.Time, limit int) (n int, err error) {
	err = l.do(ctx, Clean, func() error {
		n, err = l.to.Clean(ctx, now, limit)
		return err
	})
	return n, err
}

func (l *leaser) Lease(ctx context.Context, name string, d time.Duration) (held bool, err error) {
	err = l.do(ctx, Lease, func() error {
		held, err = l.to.Lease(ctx, name, d)
		return err
	})
	return held && err == nil, err
}

// sequence counts an iteration as one call. A fault's error is yielded in its
// place, or after it if the fault let it happen.
func sequence[T any](ctx context.Context, f *Faulty, m Method, seq func() iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		stopped := false
		var none T
		err := f.do(ctx, m, func() error {
			for v, err := range seq() {
				if stopped = !yield(v, err); stopped {
					break
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(none, err)
		}
	}
}
