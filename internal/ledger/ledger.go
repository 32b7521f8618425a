// Package ledger counts what a store acknowledged while its servers come and go,
// and compares it with what is stored.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
)

// A Ledger counts what was acknowledged while servers come and go, and
// compares it with what is stored.
type Ledger struct {
	// Records are the sessions that Start made, as they were saved first.
	Records []*session.Record

	t     testing.TB
	add   func(ctx context.Context, i int) error // adds one to counter i; nil is an acknowledgement
	value func(ctx context.Context, i int) (int, error)

	stop    context.CancelFunc
	running sync.WaitGroup
	acked   []atomic.Int64
	unknown []atomic.Int64 // failed: may have been applied
	all     atomic.Int64   // acknowledged

	mu       sync.Mutex
	trouble  bool           // a server is down: errors are to be expected
	errors   map[string]int // of the last trouble
	longest  time.Duration  // between two acknowledgements of one worker
	last     []time.Time    // acknowledgement of each worker
	slowdown float64        // of the control, during the last trouble
	window   [2]time.Time   // first and last error
}

// Patience is how long a call may take: not the manager's second, for on a busy
// machine that passes by itself.
const Patience = 4 * time.Second

// healing is how long a place may take to answer again after a trouble.
const healing = time.Minute

// start lets workers add to counters until Check.
func start(t testing.TB, workers, counters int, add func(context.Context, int) error, value func(context.Context, int) (int, error)) *Ledger {
	l := &Ledger{t: t, add: add, value: value, errors: map[string]int{},
		acked: make([]atomic.Int64, counters), unknown: make([]atomic.Int64, counters)}
	l.last = slices.Repeat([]time.Time{time.Now()}, workers)
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	t.Cleanup(func() { cancel(); l.running.Wait() })
	for w := range workers {
		l.running.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				i %= counters
				l.mu.Lock()
				trouble := l.trouble
				l.mu.Unlock()
				opCtx, cancel := context.WithTimeout(context.Background(), Patience)
				err := l.add(opCtx, i)
				cancel()
				now := time.Now()
				if err == nil {
					l.acked[i].Add(1)
					l.all.Add(1)
				} else {
					l.unknown[i].Add(1)
				}
				l.note(w, err, trouble, now)
			}
		})
	}
	l.Progress()
	return l
}

func (l *Ledger) note(w int, err error, trouble bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.longest = max(l.longest, now.Sub(l.last[w]))
		l.last[w] = now
		return
	}
	if l.window[0].IsZero() {
		l.window[0] = now
	}
	l.window[1] = now
	l.errors[err.Error()]++
	if !trouble && !l.trouble {
		l.t.Errorf("while all servers ran: %v", err)
	}
	if errors.Is(err, session.ErrNotFound) {
		l.t.Errorf("signed out: %v", err)
	}
}

// Progress waits until fifty more additions were acknowledged.
func (l *Ledger) Progress() {
	l.t.Helper()
	from := l.all.Load()
	servers.Wait(l.t, "progress", 20*time.Second, func(context.Context) error {
		if n := l.all.Load() - from; n < 50 {
			return fmt.Errorf("%d acknowledged", n)
		}
		return nil
	})
}

// Fails waits until something has failed.
func (l *Ledger) Fails() {
	l.t.Helper()
	servers.Wait(l.t, "a failure", 20*time.Second, func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.errors) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
}

// During runs f, in which errors are to be expected; they end when every
// counter can be added to again.
func (l *Ledger) During(what string, f func()) {
	l.t.Helper()
	l.mu.Lock()
	l.trouble, l.longest, l.window = true, 0, [2]time.Time{}
	clear(l.errors)
	l.mu.Unlock()
	control := startControl()
	defer control.end()
	f()
	for i := range l.acked {
		servers.Wait(l.t, "counter "+strconv.Itoa(i), healing, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, Patience)
			defer cancel()
			err := l.add(ctx, i)
			if err == nil {
				l.acked[i].Add(1)
			} else {
				l.unknown[i].Add(1)
			}
			return err
		})
	}
	slowdown := control.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble, l.slowdown = false, slowdown
	for _, last := range l.last { // those that wait still
		l.longest = max(l.longest, time.Since(last))
	}
	n := 0
	var texts []string
	for text, k := range l.errors {
		n += k
		texts = append(texts, fmt.Sprintf("%d × %s", k, text))
	}
	slices.Sort(texts)
	l.t.Logf("%s: %d errors within %v; longest wait of a worker %v; work takes %.1f times as long as alone",
		what, n, l.window[1].Sub(l.window[0]).Round(time.Millisecond), l.longest.Round(time.Millisecond), slowdown)
	for _, text := range texts[:min(len(texts), 6)] {
		l.t.Logf("  %.160s", text)
	}
}

// Answered fails the test if a worker waited longer than within for an
// acknowledgement during the last trouble. On a machine that is busy with other
// things all work takes longer, so within grows as the control's work did.
func (l *Ledger) Answered(within time.Duration) {
	l.t.Helper()
	l.mu.Lock()
	longest, slowdown := l.longest, l.slowdown
	l.mu.Unlock()
	if limit := time.Duration(float64(within) * slowdown); longest > limit {
		l.t.Errorf("a worker waited %v; want at most %v, which is %v on this machine at present",
			longest.Round(time.Millisecond), within, limit.Round(time.Millisecond))
	}
}

// Check stops the workers and returns how many acknowledged additions are
// missing.
func (l *Ledger) Check() (lost int) {
	l.t.Helper()
	l.stop()
	l.running.Wait()
	unknown := 0
	for i := range l.acked {
		var got int
		servers.Wait(l.t, "value "+strconv.Itoa(i), healing, func(ctx context.Context) (err error) {
			got, err = l.value(ctx, i)
			return err
		})
		acked, open := int(l.acked[i].Load()), int(l.unknown[i].Load())
		lost += max(0, acked-got)
		unknown += open
		if got > acked+open {
			l.t.Errorf("counter %d: %d stored, but only %d were acknowledged and %d failed", i, got, acked, open)
		}
	}
	l.t.Logf("%d acknowledged, %d failed, %d acknowledged ones lost", l.all.Load(), unknown, lost)
	return lost
}
