package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
)

// A ledger counts what was acknowledged while servers come and go, and
// compares it with what is stored.
type ledger struct {
	t     *testing.T
	add   func(ctx context.Context, i int) error // adds one to counter i; nil is an acknowledgement
	value func(ctx context.Context, i int) (int, error)

	stop    context.CancelFunc
	running sync.WaitGroup
	acked   []atomic.Int64
	unknown []atomic.Int64 // failed: may have been applied
	all     atomic.Int64   // acknowledged

	mu      sync.Mutex
	trouble bool           // a server is down: errors are to be expected
	errors  map[string]int // of the last trouble
	longest time.Duration  // between two acknowledgements of one worker
	window  [2]time.Time   // first and last error
}

// startLedger lets workers add to counters until check.
func startLedger(t *testing.T, workers, counters int, add func(context.Context, int) error, value func(context.Context, int) (int, error)) *ledger {
	l := &ledger{t: t, add: add, value: value, errors: map[string]int{},
		acked: make([]atomic.Int64, counters), unknown: make([]atomic.Int64, counters)}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	t.Cleanup(func() { cancel(); l.running.Wait() })
	for w := range workers {
		l.running.Go(func() {
			last := time.Now()
			for i := w; ctx.Err() == nil; i++ {
				i %= counters
				l.mu.Lock()
				trouble := l.trouble
				l.mu.Unlock()
				// As the manager does: a second a call.
				opCtx, cancel := context.WithTimeout(context.Background(), time.Second)
				err := l.add(opCtx, i)
				cancel()
				now := time.Now()
				if err == nil {
					l.acked[i].Add(1)
					l.all.Add(1)
				} else {
					l.unknown[i].Add(1)
				}
				l.note(err, trouble, now, now.Sub(last))
				if err == nil {
					last = now
				}
			}
		})
	}
	l.progress()
	return l
}

func (l *ledger) note(err error, trouble bool, now time.Time, gap time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.longest = max(l.longest, gap)
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

// progress waits until every worker has done something.
func (l *ledger) progress() {
	l.t.Helper()
	from := l.all.Load()
	servers.Wait(l.t, "progress", 20*time.Second, func(context.Context) error {
		if n := l.all.Load() - from; n < 50 {
			return fmt.Errorf("%d acknowledged", n)
		}
		return nil
	})
}

// fails waits until something has failed.
func (l *ledger) fails() {
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

// during runs f, in which errors are to be expected; they end when every
// counter can be added to again.
func (l *ledger) during(what string, f func()) {
	l.t.Helper()
	l.mu.Lock()
	l.trouble, l.longest, l.window = true, 0, [2]time.Time{}
	clear(l.errors)
	l.mu.Unlock()
	f()
	for i := range l.acked {
		servers.Wait(l.t, "counter "+strconv.Itoa(i), 20*time.Second, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
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
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trouble = false
	n := 0
	var texts []string
	for text, k := range l.errors {
		n += k
		texts = append(texts, fmt.Sprintf("%d × %s", k, text))
	}
	slices.Sort(texts)
	l.t.Logf("%s: %d errors within %v; longest wait of a worker %v", what, n, l.window[1].Sub(l.window[0]).Round(time.Millisecond), l.longest.Round(time.Millisecond))
	for _, text := range texts[:min(len(texts), 6)] {
		l.t.Logf("  %.160s", text)
	}
}

// check stops the workers and returns how many acknowledged additions are
// missing.
func (l *ledger) check() (lost int) {
	l.t.Helper()
	l.stop()
	l.running.Wait()
	unknown := 0
	for i := range l.acked {
		var got int
		servers.Wait(l.t, "value "+strconv.Itoa(i), 10*time.Second, func(ctx context.Context) (err error) {
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

// storeLedger counts in sessions of a store, one for each counter.
func storeLedger(t *testing.T, store session.Store, workers, counters int) (*ledger, []*session.Record) {
	t.Helper()
	tokens := make([]string, counters)
	recs := make([]*session.Record, counters)
	for i := range tokens {
		tokens[i] = session.NewToken()
		now := time.Now()
		recs[i] = &session.Record{ID: session.ID(tokens[i]), User: "user" + strconv.Itoa(i%4), Created: now, Seen: now,
			Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour), Data: []byte("0")}
		if _, err := store.Save(t.Context(), recs[i]); err != nil {
			t.Fatal(err)
		}
	}
	load := func(ctx context.Context, i int) (*session.Record, int, error) {
		rec, err := store.Load(ctx, tokens[i])
		if err != nil {
			return nil, 0, err
		}
		n, err := strconv.Atoi(string(rec.Data))
		return rec, n, err
	}
	add := func(ctx context.Context, i int) error {
		for {
			rec, n, err := load(ctx, i)
			if err != nil {
				return err
			}
			rec.Data = []byte(strconv.Itoa(n + 1))
			if _, err = store.Save(ctx, rec); !errors.Is(err, session.ErrConflict) {
				return err
			}
		}
	}
	value := func(ctx context.Context, i int) (int, error) { _, n, err := load(ctx, i); return n, err }
	return startLedger(t, workers, counters, add, value), recs
}

// httpLedger counts in the sessions of users over HTTP, through a Manager.
func httpLedger(t *testing.T, store session.Store, workers, counters int) *ledger {
	t.Helper()
	m, err := session.New(store, &session.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	counter := session.NewKey[int]("counter")
	in := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return // the ErrorHandler answers
		}
		s.SetUser(r.URL.Query().Get("user"))
		counter.Set(s, 0)
	}))
	count := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		switch {
		case err != nil:
		case s.User() == "":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			counter.Update(s, func(n int) int { return n + 1 })
		default:
			n, _ := counter.Get(s)
			fmt.Fprint(w, n)
		}
	}))
	cookies := make([]*http.Cookie, counters)
	for i := range cookies {
		w := httptest.NewRecorder()
		in.ServeHTTP(w, httptest.NewRequest("POST", "/?user=user"+strconv.Itoa(i), nil))
		if w.Code != http.StatusOK || len(w.Result().Cookies()) != 1 {
			t.Fatalf("sign in: %d", w.Code)
		}
		cookies[i] = w.Result().Cookies()[0]
	}
	request := func(ctx context.Context, method string, i int) (string, error) {
		r := httptest.NewRequestWithContext(ctx, method, "/", nil)
		r.AddCookie(cookies[i])
		w := httptest.NewRecorder()
		count.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusUnauthorized || len(w.Result().Cookies()) > 0:
			return "", session.ErrNotFound
		case w.Code != http.StatusOK:
			return "", fmt.Errorf("status %d", w.Code)
		}
		return w.Body.String(), nil
	}
	return startLedger(t, workers, counters, func(ctx context.Context, i int) error {
		_, err := request(ctx, http.MethodPost, i)
		return err
	}, func(ctx context.Context, i int) (int, error) {
		text, err := request(ctx, http.MethodGet, i)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(text)
	})
}
