package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
	"github.com/distsession/session/storetest"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

func TestMain(m *testing.M) {
	if os.Getenv(envURL) != "" {
		fmt.Fprintln(os.Stderr, addHere())
		os.Exit(1)
	}
	ledger.Main(m)
}

// env is a database that tests keep sessions in, each in tables of its own.
type env struct {
	dialect sqlstore.Dialect
	addr    string // of the server; "" for SQLite
	maxData int
}

var tables atomic.Int64

// place is where the sessions of one test are.
type place struct {
	*env
	table string
	file  string // of SQLite
	clock storetest.Clock
}

func (e *env) place(t testing.TB) *place {
	p := &place{env: e, table: fmt.Sprintf("t%d", tables.Add(1))}
	if e.dialect == sqlstore.SQLite {
		p.file = filepath.Join(t.TempDir(), "sessions.db")
	}
	return p
}

// url is the place's URL, with parameters "name=value".
func (p *place) url(params ...string) string { return p.urlAt(p.addr, params...) }

func (p *place) urlAt(addr string, params ...string) string {
	q := "?table=" + p.table + "&migrate=true"
	if p.dialect != sqlstore.SQLite {
		q += "&dial_timeout=20s" // the machine may be busy with other tests
	}
	for _, param := range params {
		q += "&" + param
	}
	switch p.dialect {
	case sqlstore.SQLite:
		return "sqlite://" + p.file + q
	case sqlstore.PostgreSQL:
		return "postgres://" + servers.SQLUser + ":" + servers.SQLPassword + "@" + addr + "/" + servers.SQLUser + q
	default:
		return "mariadb://" + servers.SQLUser + ":" + servers.SQLPassword + "@" + addr + "/" + servers.SQLUser + q
	}
}

// open opens the place by its URL, with its clock.
func (p *place) open(t testing.TB, params ...string) *sqlstore.Store {
	t.Helper()
	return p.openURL(t, p.url(params...))
}

func (p *place) openURL(t testing.TB, rawURL string) *sqlstore.Store {
	t.Helper()
	s, err := session.Open(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(s) })
	sqlstore.SetClock(s, p.clock.Now)
	return s.(*sqlstore.Store)
}

// db is a pool of the test's own.
func (p *place) db(t testing.TB) *sql.DB {
	t.Helper()
	var db *sql.DB
	switch p.dialect {
	case sqlstore.SQLite:
		var err error
		if db, err = sql.Open("sqlite", "file:"+p.file+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)"); err != nil {
			t.Fatal(err)
		}
	case sqlstore.PostgreSQL:
		cfg, err := pgx.ParseConfig("postgres://" + p.addr + "/" + servers.SQLUser)
		if err != nil {
			t.Fatal(err)
		}
		cfg.User, cfg.Password = servers.SQLUser, servers.SQLPassword
		db = stdlib.OpenDB(*cfg)
	default:
		cfg := mysql.NewConfig()
		cfg.Net, cfg.Addr, cfg.User, cfg.Passwd, cfg.DBName = "tcp", p.addr, servers.SQLUser, servers.SQLPassword, servers.SQLUser
		connector, err := mysql.NewConnector(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db = sql.OpenDB(connector)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// exec runs a statement of the test's own.
func (p *place) exec(t testing.TB, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.ExecContext(context.Background(), text); err != nil {
		t.Fatalf("%.200s: %v", text, err)
	}
}

// number is the answer to a query that has one number.
func (p *place) number(t testing.TB, db *sql.DB, text string) (n int) {
	t.Helper()
	if err := db.QueryRowContext(context.Background(), text).Scan(&n); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return n
}

// backend is a place for the suites.
func (e *env) backend(t *testing.T) storetest.Backend {
	p := e.place(t)
	return storetest.Backend{
		Open:    func() session.Store { return p.open(t, "pool_size=4") },
		MaxData: e.maxData,
		Advance: p.clock.Advance,
	}
}

// record is a new session of a user, and its token.
func (p *place) record(user string) (*session.Record, string) {
	token := session.NewToken()
	now := p.clock.Now()
	rec := &session.Record{ID: session.ID(token), User: user, Device: "Firefox on Linux", Created: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(8 * time.Hour), Data: []byte(`{"n":1}`)}
	if user != "" {
		rec.SignedIn = now
	}
	return rec, token
}

// create saves a new session.
func (p *place) create(t testing.TB, s session.Store, user string) (*session.Record, string) {
	t.Helper()
	rec, token := p.record(user)
	save(t, s, rec)
	return rec, token
}

func save(t testing.TB, s session.Store, rec *session.Record) {
	t.Helper()
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatalf("Save at version %d: %v", rec.Version, err)
	}
}

func load(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

func escape(s string) string { return url.QueryEscape(s) }
