package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
	"github.com/jackc/pgx/v5/pgconn"
)

func testPostgreSQL(t *testing.T, server *servers.PostgresServer, e *env) {
	t.Run("a database schema", func(t *testing.T) {
		p := e.place(t)
		p.exec(t, p.db(t), "CREATE SCHEMA app")
		p.table = "app.web"
		everyCall(t, p, p.open(t))
		everyCall(t, p, p.open(t, "application_name=shop")) // there already
	})
	t.Run("saves and touches are HOT", func(t *testing.T) { testHOT(t, e) })
	t.Run("no error shows a value", func(t *testing.T) { testDetail(t, e) })
	t.Run("DeleteUser waits for a Renew", func(t *testing.T) { testDeleteUserWaits(t, e) })
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			p := e.place(t)
			role := strings.ReplaceAll(p.table+"_"+level, " ", "_")
			db := p.db(t)
			p.exec(t, db, "CREATE ROLE "+role+" SUPERUSER LOGIN PASSWORD 'pw'")
			p.exec(t, db, "ALTER ROLE "+role+" SET default_transaction_isolation = '"+level+"'")
			count(t, p, p.openURL(t, "postgres://"+role+":pw@"+e.addr+"/"+servers.SQLUser+"?migrate=true&table="+p.table))
		})
	}
	t.Run("a connection that is read-only", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		p.open(t)
		p.exec(t, db, "CREATE ROLE reads_only SUPERUSER LOGIN PASSWORD 'pw'")
		p.exec(t, db, "ALTER ROLE reads_only SET default_transaction_read_only = on")
		err := open(t, "postgres://reads_only:pw@"+e.addr+"/"+servers.SQLUser+"?table="+p.table)
		misconfigured(t, "Open", err, "read-only")
	})
	t.Run("several hosts, one of them the primary", func(t *testing.T) {
		p := e.place(t)
		l, err := net.Listen("tcp", "127.0.0.1:0") // nobody answers there
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		everyCall(t, p, p.openURL(t, p.urlAt(l.Addr().String()+","+e.addr)))
	})
	t.Run("behind PgBouncer", func(t *testing.T) {
		p := e.place(t)
		s := p.openURL(t, p.urlAt(servers.PgBouncer(t, server), "prepare=false"))
		everyCall(t, p, s)
		count(t, p, s)
	})
	t.Run("a socket", func(t *testing.T) {
		p := e.place(t)
		_, port, _ := strings.Cut(e.addr, ":")
		t.Setenv("PGPORT", port)
		everyCall(t, p, p.openURL(t, "postgres://"+servers.SQLUser+":"+servers.SQLPassword+"@/"+servers.SQLUser+
			"?migrate=true&table="+p.table+"&socket="+escape(server.Dir)))
	})
	t.Run("a replica", func(t *testing.T) { // last, for it stays one
		p := e.place(t)
		s := p.open(t)
		_, token := p.create(t, s, "ann")
		p.exec(t, p.db(t), "CHECKPOINT") // this server's commits do not wait for the disk
		server.Stop()
		if err := os.WriteFile(filepath.Join(server.Dir, "data", "standby.signal"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		server.Restart(t)
		err := open(t, p.url())
		misconfigured(t, "Open", err, "replica")
		misconfigured(t, "Check", s.Check(t.Context()), "replica")
		rec, _ := p.record("ann")
		if _, err := s.Save(t.Context(), rec); err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
			t.Errorf("Save on a replica: %v", err)
		}
		load(t, s, token)
	})
}

// count has several writers add to one number.
func count(t *testing.T, p *place, s *sqlstore.Store) {
	t.Helper()
	const writers, each = 4, 15
	rec, token := p.record("ann")
	rec.Data = []byte("0")
	save(t, s, rec)
	errs := make(chan error, writers)
	for range writers {
		go func() {
			for range each {
				for {
					rec, err := s.Load(t.Context(), token)
					if err == nil {
						var n int
						fmt.Sscan(string(rec.Data), &n)
						rec.Data = fmt.Append(nil, n+1)
						_, err = s.Save(t.Context(), rec)
					}
					if err == nil {
						break
					}
					if !errors.Is(err, session.ErrConflict) {
						errs <- err
						return
					}
				}
			}
			errs <- nil
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := load(t, s, token); string(got.Data) != fmt.Sprint(writers*each) {
		t.Errorf("the counter is %s; want %d", got.Data, writers*each)
	}
}

// An update that writes no index anew is what makes touches cheap: it takes an
// index that no touch and no save changes, and room on the row's page.
func testHOT(t *testing.T, e *env) {
	const n = 200
	p := e.place(t)
	s := p.open(t)
	db := p.db(t)
	// Whoever looks at a table, as an ANALYZE does, keeps the old rows of all.
	p.exec(t, db, "ALTER SYSTEM SET autovacuum = off")
	p.exec(t, db, "SELECT pg_reload_conf()")
	servers.Wait(t, "the end of autovacuum", 20*time.Second, func(ctx context.Context) error {
		var workers int
		err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'").Scan(&workers)
		if err == nil && workers > 0 {
			err = fmt.Errorf("%d of its processes", workers)
		}
		return err
	})
	defer p.exec(t, db, "SELECT pg_reload_conf()")
	defer p.exec(t, db, "ALTER SYSTEM RESET autovacuum")
	var tokens []string
	for range n {
		_, token := p.create(t, s, "ann")
		tokens = append(tokens, token)
	}
	for i, token := range tokens {
		p.clock.Advance(time.Second)
		now := p.clock.Now()
		if i%2 == 0 {
			if err := s.Touch(t.Context(), session.ID(token), now, now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		rec := load(t, s, token)
		rec.Seen, rec.Expires = now, now.Add(time.Hour)
		save(t, s, rec)
	}
	s.Close() // its connections report what they did when they end
	var updates, hot int
	servers.Wait(t, "the statistics", 20*time.Second, func(ctx context.Context) error {
		err := db.QueryRowContext(ctx, "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1", p.table).Scan(&updates, &hot)
		if err == nil && updates < n {
			err = fmt.Errorf("%d updates", updates)
		}
		return err
	})
	t.Logf("%d of %d updates were HOT", hot, updates)
	if hot < updates*9/10 {
		t.Errorf("%d of %d updates were HOT; want nearly all", hot, updates)
	}
}

// A DeleteUser that began before a Renew, and had to wait for it, ends what the
// Renew made.
func testDeleteUserWaits(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t, "application_name="+p.table)
	old, _ := p.create(t, s, "ann")
	db := p.db(t)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), "UPDATE "+p.table+" SET replaced = true, user_name = '' WHERE id = $1", []byte(old.ID)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.DeleteUser(t.Context(), "ann", "")
		done <- err
	}()
	servers.Wait(t, "DeleteUser's turn", 20*time.Second, func(ctx context.Context) error {
		var waiting int
		err := db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'", p.table).Scan(&waiting)
		if err == nil && waiting == 0 {
			err = errors.New("it does not wait for the row")
		}
		return err
	})
	renewed, _ := p.record("ann")
	save(t, s, renewed)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for info, err := range s.List(t.Context(), "ann") {
		t.Errorf("a session survived: %+v, %v", info, err)
	}
}

// PostgreSQL puts a row that breaks a constraint into the error's detail.
func testDetail(t *testing.T, e *env) {
	const secret = "correct horse battery staple"
	p := e.place(t)
	s := p.open(t)
	db := p.db(t)
	p.exec(t, db, "ALTER TABLE "+p.table+" ADD CHECK (octet_length(data) < 20)")
	p.exec(t, db, "ALTER SYSTEM SET log_parameter_max_length_on_error = -1")
	p.exec(t, db, "SELECT pg_reload_conf()")
	rec, _ := p.record("ann")
	rec.Data = []byte(`{"secret":"` + secret + `"}`)
	_, err := s.Save(t.Context(), rec)
	if err == nil {
		t.Fatal("the constraint was not broken")
	}
	var e1 *pgconn.PgError
	if !errors.As(err, &e1) || e1.Code != "23514" {
		t.Fatalf("%v is not the database's error", err)
	}
	hex := fmt.Sprintf("%x", secret)
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", *e1)} {
		if strings.Contains(text, secret) || strings.Contains(text, hex) {
			t.Errorf("the error shows a value: %s", text)
		}
	}
}
