package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// Without a fault a Faulty changes nothing.
func TestFaultyKeepsEveryPromise(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Backend {
		b := memory(t)
		inner := b.Open()
		b.Open = func() session.Store { return storetest.NewFaulty(storetest.NewFaulty(inner)) }
		return b
	})
}

func newRecord(user string) (*session.Record, string) {
	token, now := session.NewToken(), time.Now()
	return &session.Record{ID: session.ID(token), User: user, Created: now, Seen: now, Expires: now.Add(time.Hour)}, token
}

// three has Store's three methods and nothing else.
type three struct{ session.Store }

// two has one ability beside them.
type two struct {
	session.Store
	session.Toucher
}

func TestFaultyHasTheAbilitiesOfItsStore(t *testing.T) {
	whole := session.NewMemoryStore(nil)
	for _, tt := range []struct {
		name  string
		inner session.Store
		want  []string
	}{
		{"a store that has all of them", whole, []string{"Lister", "UserDeleter", "Toucher", "Scanner", "Cleaner"}},
		{"a store that has none", three{whole}, nil},
		{"a store that has one", two{three{whole}, whole}, []string{"Toucher"}},
		{"another Faulty", storetest.NewFaulty(two{three{whole}, whole}), []string{"Toucher"}},
	} {
		f := storetest.NewFaulty(tt.inner)
		var got []string
		for _, a := range []struct {
			name string
			has  bool
		}{
			{"Lister", has[session.Lister](f)},
			{"UserDeleter", has[session.UserDeleter](f)},
			{"Toucher", has[session.Toucher](f)},
			{"Scanner", has[session.Scanner](f)},
			{"AtLeaster", has[session.AtLeaster](f)},
			{"Cleaner", has[session.Cleaner](f)},
		} {
			if a.has {
				got = append(got, a.name)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: As finds %v; want %v", tt.name, got, tt.want)
		}
	}
	if m, ok := session.As[*session.MemoryStore](storetest.NewFaulty(whole)); !ok || m != whole {
		t.Error("As does not find the store itself")
	}
}

func has[T any](s session.Store) bool {
	_, ok := session.As[T](s)
	return ok
}

var errFault = errors.New("the fault")

// callAll calls every method once and returns the errors.
func callAll(ctx context.Context, f *storetest.Faulty) map[storetest.Method]error {
	errs := map[storetest.Method]error{}
	rec, token := newRecord("alice")
	_, errs[storetest.Save] = f.Save(ctx, rec)
	_, errs[storetest.Load] = f.Load(ctx, token)
	to, _ := session.As[session.Toucher](f)
	errs[storetest.Touch] = to.Touch(ctx, rec.ID, rec.Seen, rec.Expires)
	errs[storetest.List] = nil
	for _, err := range session.List(ctx, f, "alice") {
		errs[storetest.List] = err
	}
	scanner, _ := session.As[session.Scanner](f)
	errs[storetest.Scan] = nil
	for _, err := range scanner.Scan(ctx) {
		errs[storetest.Scan] = err
	}
	_, errs[storetest.DeleteUser] = session.DeleteUser(ctx, f, "alice", "")
	errs[storetest.Delete] = f.Delete(ctx, rec.ID)
	cleaner, _ := session.As[session.Cleaner](f)
	_, errs[storetest.Clean] = cleaner.Clean(ctx, time.Now(), 0)
	return errs
}

func TestFaultyFailsEveryMethod(t *testing.T) {
	f := storetest.NewFaulty(session.NewMemoryStore(nil))
	for m, err := range callAll(t.Context(), f) {
		if err != nil || f.Calls(m) != 1 {
			t.Errorf("%s without a fault: %v, %d calls; want none and 1", m, err, f.Calls(m))
		}
	}
	f.SetAll(storetest.Fail(errFault))
	errs := callAll(t.Context(), f)
	for m, err := range errs {
		if err != errFault || f.Calls(m) != 2 {
			t.Errorf("%s with a fault: %v, %d calls; want the fault and 2", m, err, f.Calls(m))
		}
	}
	if f.Calls() != 2*len(errs) || f.Calls(storetest.Load, storetest.Save) != 4 {
		t.Errorf("%d calls of all methods, %d of Load and Save", f.Calls(), f.Calls(storetest.Load, storetest.Save))
	}
	f.Heal()
	f.Reset()
	for m, err := range callAll(t.Context(), f) {
		if err != nil || f.Calls(m) != 1 {
			t.Errorf("%s healed: %v, %d calls", m, err, f.Calls(m))
		}
	}
	for m := range errs {
		f.Set(m, storetest.Fail(errFault))
		for other, err := range callAll(t.Context(), f) {
			if m == storetest.Save && (other == storetest.Load || other == storetest.Touch) {
				continue // there is no record
			}
			if (err == errFault) != (other == m) {
				t.Errorf("a fault of %s: %s answers %v", m, other, err)
			}
		}
		f.Set(m, nil)
	}
}

func TestFaults(t *testing.T) {
	const ok, fails = "ok", "fails"
	for _, tt := range []struct {
		name  string
		fault storetest.Fault
		want  []string // of four Deletes
		calls int      // how many of them happened
	}{
		{"Fail", storetest.Fail(errFault), []string{fails, fails, fails, fails}, 0},
		{"LoseAnswer", storetest.LoseAnswer(errFault), []string{fails, fails, fails, fails}, 4},
		{"Nth", storetest.Nth(2, storetest.Fail(errFault)), []string{ok, fails, ok, ok}, 3},
		{"First", storetest.First(2, storetest.LoseAnswer(errFault)), []string{fails, fails, ok, ok}, 4},
	} {
		below := storetest.NewFaulty(session.NewMemoryStore(nil))
		f := storetest.NewFaulty(below)
		f.Delete(t.Context(), "before it is set")
		below.Reset()
		f.Set(storetest.Delete, tt.fault)
		var got []string
		for range tt.want {
			switch err := f.Delete(t.Context(), "an ID"); err {
			case nil:
				got = append(got, ok)
			case errFault:
				got = append(got, fails)
			default:
				got = append(got, err.Error())
			}
		}
		if !slices.Equal(got, tt.want) || below.Calls() != tt.calls {
			t.Errorf("%s: %v with %d calls below; want %v with %d", tt.name, got, below.Calls(), tt.want, tt.calls)
		}
	}
}

func TestConflictIsErrConflict(t *testing.T) {
	f := storetest.NewFaulty(session.NewMemoryStore(nil))
	f.Set(storetest.Save, storetest.Conflict())
	rec, token := newRecord("alice")
	if _, err := f.Save(t.Context(), rec); !errors.Is(err, session.ErrConflict) {
		t.Errorf("Save: %v", err)
	}
	if _, err := f.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the Save that conflicted reached the store: %v", err)
	}
}

func TestStallEndsWithItsContext(t *testing.T) {
	f := storetest.NewFaulty(session.NewMemoryStore(nil))
	f.SetAll(storetest.Stall())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := f.Load(ctx, session.NewToken())
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("a stalled Load answered: %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Load: %v; want the context's error", err)
	}
}

func TestLostAnswerOfAListComesAfterIt(t *testing.T) {
	f := storetest.NewFaulty(session.NewMemoryStore(nil))
	for range 3 {
		rec, _ := newRecord("alice")
		f.Save(t.Context(), rec)
	}
	f.Set(storetest.List, storetest.LoseAnswer(errFault))
	n := 0
	var last error
	for _, err := range session.List(t.Context(), f, "alice") {
		if last = err; err == nil {
			n++
		}
	}
	if n != 3 || last != errFault {
		t.Errorf("List yields %d sessions, then %v", n, last)
	}
	for range session.List(t.Context(), f, "alice") {
		break // nothing is yielded after that
	}
}

func TestGate(t *testing.T) {
	store := session.NewMemoryStore(nil)
	for _, tt := range []struct {
		side   string
		fault  func(g *storetest.Gate) storetest.Fault
		stored bool // while the gate is closed
	}{
		{"before", func(g *storetest.Gate) storetest.Fault { return g.Before }, false},
		{"after", func(g *storetest.Gate) storetest.Fault { return g.After }, true},
	} {
		f, gate := storetest.NewFaulty(store), storetest.NewGate()
		f.Set(storetest.Save, tt.fault(gate))
		rec, token := newRecord("alice")
		saved := make(chan error, 1)
		go func() {
			_, err := f.Save(t.Context(), rec)
			saved <- err
		}()
		<-gate.Arrived()
		if _, err := store.Load(t.Context(), token); (err == nil) != tt.stored {
			t.Errorf("%s: while the Save is held up, Load answers %v", tt.side, err)
		}
		gate.Open()
		gate.Open()
		if err := <-saved; err != nil {
			t.Errorf("%s: Save: %v", tt.side, err)
		}
		if _, err := store.Load(t.Context(), token); err != nil {
			t.Errorf("%s: after the gate was opened: %v", tt.side, err)
		}
		f.Delete(t.Context(), rec.ID)
		if _, err := f.Save(t.Context(), rec); err != nil {
			t.Errorf("%s: a call after the gate was opened: %v", tt.side, err)
		}

		f.Set(storetest.Save, tt.fault(storetest.NewGate()))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rec, _ = newRecord("bob")
		if _, err := f.Save(ctx, rec); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: a closed gate and a context that has ended: %v", tt.side, err)
		}
	}
}

func ExampleFaulty() {
	ctx := context.Background()
	faulty := storetest.NewFaulty(session.NewMemoryStore(nil))
	rec, token := newRecord("alice")
	faulty.Save(ctx, rec)

	faulty.Set(storetest.Load, storetest.Nth(2, storetest.Fail(errors.New("connection refused"))))
	for range 3 {
		_, err := faulty.Load(ctx, token)
		fmt.Println(err)
	}
	fmt.Println(faulty.Calls(storetest.Load), "loads")
	// Output:
	// <nil>
	// connection refused
	// <nil>
	// 3 loads
}
