package sqlstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/sqlstore"
)

// misconfigured checks an error that must not let a program start, and that
// says what to do.
func misconfigured(t *testing.T, what string, err error, says string) {
	t.Helper()
	if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v; want ErrConfig with %q", what, err, says)
	}
}

func testSchema(t *testing.T, e *env) {
	t.Run("an empty database is refused, and Schema mends it", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		s, err := sqlstore.New(db, e.dialect, &sqlstore.Options{Table: p.table})
		if err != nil {
			t.Fatal(err)
		}
		misconfigured(t, "Check", s.Check(t.Context()), "migrate=true")
		for _, text := range strings.Split(sqlstore.Schema(e.dialect, p.table), ";\n") {
			if strings.TrimSpace(text) != "" {
				p.exec(t, db, text)
			}
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check of what Schema made: %v", err)
		}
		_, token := p.create(t, s, "ann")
		load(t, s, token)
		if err := s.Migrate(t.Context()); err != nil {
			t.Errorf("Migrate of what Schema made: %v", err)
		}
		load(t, s, token)
	})
	t.Run("without migrate=true Open makes nothing", func(t *testing.T) {
		p := e.place(t)
		p.db(t).PingContext(t.Context()) // SQLite's file is there, and empty
		_, err := session.Open(t.Context(), strings.Replace(p.url(), "&migrate=true", "&migrate=false", 1))
		misconfigured(t, "Open", err, "migrate=true")
	})
	t.Run("several nodes migrate at once", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				s, err := sqlstore.New(db, e.dialect, &sqlstore.Options{Table: p.table})
				if err == nil {
					err = s.Migrate(t.Context())
				}
				if err == nil {
					err = s.Check(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := p.number(t, db, "SELECT count(*) FROM "+p.table+"_schema"); n != 1 {
			t.Errorf("%d versions noted; want 1", n)
		}
	})
	t.Run("a failure leaves nothing locked", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		p.exec(t, db, "CREATE VIEW "+p.table+" AS SELECT 1 AS one") // stands where the table belongs
		s, err := sqlstore.New(db, e.dialect, &sqlstore.Options{Table: p.table})
		if err != nil {
			t.Fatal(err)
		}
		if s.Migrate(t.Context()) == nil && s.Check(t.Context()) == nil {
			t.Error("a view passes for a table")
		}
		p.exec(t, db, "DROP VIEW "+p.table)
		if err := s.Migrate(t.Context()); err != nil {
			t.Errorf("Migrate after the failure: %v", err)
		}
		if e.dialect == sqlstore.MySQL { // its DDL cannot be undone: the version is noted though a table was not made
			return
		}
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("Check after the failure: %v", err)
		}
	})
	for _, tt := range []struct{ why, change, says string }{
		{"nothing tells the version", "DROP TABLE {t}_schema", "migrate=true"},
		{"a table is missing", "DROP TABLE {t}", "restore"},
		{"the leases are missing", "DROP TABLE {t}_lease", "restore"},
		{"a column is missing", "ALTER TABLE {t} RENAME COLUMN device TO gadget", "restore"},
		{"the schema is older", "UPDATE {t}_schema SET version = 0", "needs 1"},
		{"the schema is newer, and this program cannot use it", "INSERT INTO {t}_schema (version, oldest) VALUES (7, 2)", "update the program"},
		{"the schema is newer, and this program can use it", "INSERT INTO {t}_schema (version, oldest) VALUES (7, 1)", ""},
	} {
		t.Run(tt.why, func(t *testing.T) {
			p := e.place(t)
			s := p.open(t)
			p.exec(t, p.db(t), strings.ReplaceAll(tt.change, "{t}", p.table))
			err := s.Check(t.Context())
			if tt.says == "" {
				if err != nil {
					t.Errorf("Check: %v", err)
				}
				return
			}
			misconfigured(t, "Check", err, tt.says)
			_, err = session.Open(t.Context(), strings.Replace(p.url(), "&migrate=true", "&migrate=false", 1))
			misconfigured(t, "Open", err, tt.says)
		})
	}
}

// A failure to migrate while the database is gone is no ErrConfig.
func TestCheckEnded(t *testing.T) {
	e := &env{dialect: sqlstore.SQLite}
	s := e.place(t).open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{"Check": s.Check(ctx), "Migrate": s.Migrate(ctx)} {
		if !errors.Is(err, context.Canceled) || errors.Is(err, session.ErrConfig) {
			t.Errorf("%s: %v; want Canceled", name, err)
		}
	}
}

func TestNew(t *testing.T) {
	e := &env{dialect: sqlstore.SQLite}
	db := e.place(t).db(t)
	for _, tt := range []struct {
		why     string
		dialect sqlstore.Dialect
		opts    sqlstore.Options
		ok      bool
	}{
		{"the defaults", sqlstore.SQLite, sqlstore.Options{}, true},
		{"a name with a schema", sqlstore.PostgreSQL, sqlstore.Options{Table: "app.web_2"}, true},
		{"SQLite has no schemas", sqlstore.SQLite, sqlstore.Options{Table: "app.web"}, false},
		{"an unknown dialect", "oracle", sqlstore.Options{}, false},
		{"a statement for a name", sqlstore.MySQL, sqlstore.Options{Table: "t; DROP TABLE t"}, false},
		{"a quoted name", sqlstore.MySQL, sqlstore.Options{Table: "`t`"}, false},
		{"a name that would be folded", sqlstore.PostgreSQL, sqlstore.Options{Table: "Sessions"}, false},
		{"a name that starts with a digit", sqlstore.PostgreSQL, sqlstore.Options{Table: "1t"}, false},
		{"a name that PostgreSQL would cut", sqlstore.PostgreSQL, sqlstore.Options{Table: strings.Repeat("t", 41)}, false},
		{"three parts", sqlstore.PostgreSQL, sqlstore.Options{Table: "a.b.c"}, false},
		{"an empty part", sqlstore.PostgreSQL, sqlstore.Options{Table: "app."}, false},
		{"a negative timeout", sqlstore.SQLite, sqlstore.Options{Timeout: -1}, false},
	} {
		_, err := sqlstore.New(db, tt.dialect, &tt.opts)
		if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, session.ErrConfig) {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
	if _, err := sqlstore.New(nil, sqlstore.SQLite, nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("no database: %v", err)
	}
}
