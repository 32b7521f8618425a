package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
)

// insert writes n records of a user that expire after life, many in a
// statement.
func (p *place) insert(t testing.TB, n int, user string, life time.Duration) {
	t.Helper()
	db := p.db(t)
	now := p.clock.Now()
	bytes := func(s string) string { return fmt.Sprintf("x'%x'", s) }
	yes, no := "1", "0"
	if p.dialect == sqlstore.PostgreSQL {
		bytes = func(s string) string { return fmt.Sprintf(`'\x%x'`, s) }
		yes, no = "true", "false"
	}
	expires := now.Add(life).UnixMilli()
	for n > 0 {
		rows := make([]string, min(n, 500))
		for i := range rows {
			rows[i] = fmt.Sprintf("(%s, 1, %d, %d, %d, %d, %d, %s, %s, '------------------', %s, %s, %s)", bytes(session.ID(session.NewToken())),
				now.UnixMilli(), now.UnixMilli(), now.UnixMilli(), expires, expires, yes, no, bytes(user), bytes("a device"), bytes(`{"n":1}`))
		}
		p.exec(t, db, "INSERT INTO "+p.table+
			" (id, version, created, signed_in, seen, expires, due, persist, replaced, trail, user_name, device, data) VALUES "+strings.Join(rows, ", "))
		n -= len(rows)
	}
}

// deadlocks is how many the server has seen.
func (p *place) deadlocks(t testing.TB) int {
	t.Helper()
	db := p.db(t)
	switch p.dialect {
	case sqlstore.PostgreSQL:
		return p.number(t, db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
	case sqlstore.MySQL:
		return p.number(t, db, "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'Innodb_deadlocks'")
	}
	return 0
}

// Several cleaners at once, while sessions are created, saved, touched and
// ended: every expired row is removed once, everything else stays, and nobody
// waits for another in a circle.
func testClean(t *testing.T, e *env) {
	const expired, live = 10_000, 300
	p := e.place(t)
	a, b := p.open(t), p.open(t)
	p.insert(t, expired, "gone", -time.Second)
	p.insert(t, live, "here", time.Hour)
	before := p.deadlocks(t)
	ctx, stop := context.WithCancel(t.Context())
	var savers, cleaners sync.WaitGroup
	var removed, failed atomic.Int64
	note := func(what string, err error) {
		// Of user 0 a session may have been ended by the other saver.
		if err != nil && !errors.Is(err, session.ErrNotFound) && ctx.Err() == nil && failed.Add(1) < 5 {
			t.Errorf("%s: %v", what, err)
		}
	}
	for w := range 4 {
		s := []*sqlstore.Store{a, b}[w%2]
		savers.Go(func() {
			for ctx.Err() == nil {
				rec, token := p.record(fmt.Sprintf("user %d", w%2))
				rec.Expires = p.clock.Now().Add(2 * time.Minute)
				_, err := s.Save(ctx, rec)
				note("create", err)
				note("touch", s.Touch(ctx, rec.ID, p.clock.Now(), p.clock.Now().Add(time.Hour)))
				if got, err := s.Load(ctx, token); err == nil {
					got.Expires = p.clock.Now().Add(time.Minute) // back: due moves with it
					_, err = s.Save(ctx, got)
					note("save", err)
				} else {
					note("load", err)
				}
				if w == 0 {
					_, err := s.DeleteUser(ctx, "user 0", "")
					note("delete user", err)
				}
				note("delete", s.Delete(ctx, rec.ID))
			}
		})
	}
	for _, s := range []*sqlstore.Store{a, b, a} {
		cleaners.Go(func() {
			for {
				n, err := s.Clean(ctx, p.clock.Now(), 2000)
				note("clean", err)
				removed.Add(int64(n))
				if n == 0 || err != nil {
					return
				}
			}
		})
	}
	cleaners.Wait()
	stop()
	savers.Wait()
	// What one cleaner held, another passed over.
	n, err := a.Clean(t.Context(), p.clock.Now(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := removed.Load() + int64(n); got != expired {
		t.Errorf("%d rows were removed; want each of %d once", got, expired)
	}
	db := p.db(t)
	if n := p.number(t, db, fmt.Sprintf("SELECT count(*) FROM %s WHERE expires <= %d", p.table, p.clock.Now().UnixMilli())); n != 0 {
		t.Errorf("%d expired rows are left", n)
	}
	got := 0
	for _, err := range a.List(t.Context(), "here") {
		if err != nil {
			t.Fatal(err)
		}
		got++
	}
	if got != live {
		t.Errorf("%d of %d live sessions are there", got, live)
	}
	if n := p.deadlocks(t) - before; n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// What was touched is due before it expires: it stays, and goes in its time.
func testCleanTouched(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t)
	const n = sqlstore.CleanPage + 3
	p.insert(t, n, "ann", time.Minute)
	for info, err := range s.List(t.Context(), "ann") {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Touch(t.Context(), info.ID, p.clock.Now(), p.clock.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	p.insert(t, 2, "bob", 2*time.Minute) // due after those that live
	p.clock.Advance(3 * time.Minute)
	if got, err := s.Clean(t.Context(), p.clock.Now(), 1); got != 1 || err != nil {
		t.Errorf("Clean = %d, %v; want the one that it may remove, behind all that live", got, err)
	}
	if got, err := s.Clean(t.Context(), p.clock.Now(), 0); got != 1 || err != nil {
		t.Errorf("Clean = %d, %v; want the other one", got, err)
	}
	p.clock.Advance(time.Hour)
	if got, err := s.Clean(t.Context(), p.clock.Now(), 0); got != n || err != nil {
		t.Errorf("Clean after an hour = %d, %v; want %d", got, err, n)
	}
}

// Two nodes run cleaners: one of them cleans, and both survive a restart of the
// server.
func testRunCleaner(t *testing.T, p *place, restart func()) {
	const expired, live = 10_000, 50
	p.open(t) // makes the tables
	p.insert(t, live, "here", time.Hour)
	p.insert(t, expired, "gone", -time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for range 2 {
		s := p.open(t)
		opts := &session.CleanerOptions{Interval: 300 * time.Millisecond, Batch: 500, Pause: 20 * time.Millisecond, Timeout: 2 * time.Second,
			Now: p.clock.Now, Logger: slog.New(slog.DiscardHandler)}
		go func() { errs <- session.RunCleaner(ctx, s, opts) }()
	}
	db := p.db(t)
	count := func(ctx context.Context, user string) (n int, err error) {
		err = db.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*) FROM %s WHERE device <> '' AND expires %s %d", p.table,
			map[string]string{"gone": "<=", "here": ">"}[user], p.clock.Now().UnixMilli())).Scan(&n)
		return n, err
	}
	servers.Wait(t, "the first batches", 20*time.Second, func(ctx context.Context) error {
		if n, err := count(ctx, "gone"); err != nil || n == expired {
			return fmt.Errorf("%d left, %v", n, err)
		}
		return nil
	})
	restart()
	servers.Wait(t, "the rest", 30*time.Second, func(ctx context.Context) error {
		if n, err := count(ctx, "gone"); err != nil || n > 0 {
			return fmt.Errorf("%d left, %v", n, err)
		}
		return nil
	})
	if n, err := count(t.Context(), "here"); n != live || err != nil {
		t.Errorf("%d of %d live sessions are there, %v", n, live, err)
	}
	select {
	case err := <-errs:
		t.Errorf("a cleaner ended: %v", err)
	default:
	}
	stop()
	for range 2 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("when the context ends: %v", err)
		}
	}
	if n := p.number(t, db, "SELECT count(*) FROM "+p.table+"_lease"); n != 0 {
		t.Errorf("%d leases were not given back", n)
	}
}
