package ledger_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

func TestLedger(t *testing.T) {
	for name, start := range map[string]func(testing.TB, session.Store, int, int) *ledger.Ledger{
		"store": ledger.Start, "HTTP": ledger.StartHTTP,
	} {
		t.Run(name, func(t *testing.T) {
			faulty := storetest.NewFaulty(session.NewMemoryStore(nil))
			l := start(t, faulty, 4, 12)
			l.During("the store is away", func() {
				faulty.SetAll(storetest.Fail(errors.New("connection refused")))
				l.Fails()
				faulty.Heal()
			})
			l.Progress()
			if lost := l.Check(); lost != 0 {
				t.Errorf("%d lost", lost)
			}
		})
	}
}

// recorder is a test that may fail without failing this one.
type recorder struct {
	testing.TB
	failed atomic.Int64
}

func (r *recorder) Errorf(string, ...any) { r.failed.Add(1) }

// once makes a fault happen to the first call that succeeds.
func once(f storetest.Fault) storetest.Fault {
	var done atomic.Bool
	return func(ctx context.Context, n int, call func() error) error {
		if err := call(); err != nil || done.Swap(true) {
			return err
		}
		return f(ctx, n, func() error { return nil })
	}
}

// A ledger that never sees a loss shows nothing.
func TestLedgerSees(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fault  storetest.Fault
		lost   bool
		failed bool
	}{
		{"a save that is acknowledged and not done", storetest.Nth(7, storetest.Fail(nil)), true, false},
		{"an error while all is well", storetest.Nth(7, storetest.Fail(errors.New("why"))), false, true},
		{"a session that is gone", storetest.Nth(7, storetest.Fail(session.ErrNotFound)), false, true},
		{"a write of another that is taken for a conflict", once(storetest.LoseAnswer(session.ErrConflict)), false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			faulty := storetest.NewFaulty(session.NewMemoryStore(nil))
			r := &recorder{TB: t}
			l := ledger.Start(r, faulty, 2, 4)
			faulty.Set(storetest.Save, tt.fault)
			l.Progress()
			if lost := l.Check(); (lost > 0) != tt.lost || (r.failed.Load() > 0) != tt.failed {
				t.Errorf("%d lost, %d errors", lost, r.failed.Load())
			}
		})
	}
}

// A worker that waited is seen.
func TestAnswered(t *testing.T) {
	for _, tt := range []struct {
		within time.Duration
		failed int64
		why    string
	}{
		{time.Hour, 0, "nobody waited that long"},
		{time.Nanosecond, 1, "everybody waited longer"},
	} {
		faulty := storetest.NewFaulty(session.NewMemoryStore(nil))
		r := &recorder{TB: t}
		l := ledger.Start(r, faulty, 2, 4)
		l.During("the store is away", func() {
			faulty.SetAll(storetest.Fail(errors.New("connection refused")))
			l.Fails()
			faulty.Heal()
		})
		l.Answered(tt.within)
		if n := r.failed.Load(); n != tt.failed {
			t.Errorf("within %v (%s): %d failures", tt.within, tt.why, n)
		}
	}
}

func TestTwoProcesses(t *testing.T) {
	ledger.TwoProcesses(t, "redis://"+miniredis.RunT(t).Addr(), 2, 50)
}
