package sqlstore_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
)

// No error of a URL shows a password, wherever it stands.
func TestURLs(t *testing.T) {
	const secret = "hunter2secret"
	t.Setenv("SQLSTORE_TEST_PASSWORD", secret)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tt := range []struct{ why, url, says string }{
		{"no host", "postgres:///db", "names no host"},
		{"no database", "postgres://ann:" + secret + "@localhost", "database's name"},
		{"two databases", "mysql://ann:" + secret + "@localhost/a/b", "database's name"},
		{"no user", "mysql://localhost/db", "names no user"},
		{"two users", "mysql://ann@localhost/db?username=bob", "keep one"},
		{"two passwords", "postgres://ann:" + secret + "@localhost/db?password=env:SQLSTORE_TEST_PASSWORD", "keep the parameter"},
		{"the password itself", "postgres://ann@localhost/db?password=" + secret, "env:NAME or file:PATH"},
		{"a slash in the password", "postgres://ann:" + secret + "/x@localhost/db", ""},
		{"a question mark in the password", "mysql://ann:" + secret + "?x@localhost/db", ""},
		{"an unknown parameter", "mysql://ann@localhost/db?passwrd=x", "known:"},
		{"a driver's parameter", "mysql://ann@localhost/db?multiStatements=true", "known:"},
		{"an sslmode that is none", "postgres://ann:" + secret + "@localhost/db?sslmode=perhaps", "sslmode"},
		{"a certificate that is not there", "postgres://ann:" + secret + "@localhost/db?sslmode=verify-full&sslrootcert=" + missing, "missing"},
		{"a CA that is not there", "mysql://ann:" + secret + "@localhost/db?tls=true&ca=" + missing, "parameter ca"},
		{"a CA without TLS", "mysql://ann@localhost/db?ca=" + missing, "tls=true"},
		{"half of TLS", "mysql://ann@localhost/db?tls=skip-verify", "true or false"},
		{"a host and a socket", "mysql://ann@localhost/db?socket=/run/mysqld.sock", "socket"},
		{"neither true nor false", "mysql://ann@localhost/db?migrate=maybe", "true or false"},
		{"no table name", "mysql://ann@localhost/db?table=a-b", "table name"},
		{"no time to connect", "mysql://ann@localhost/db?dial_timeout=0", "dial_timeout"},
		{"SQLite in memory", "sqlite::memory:", "memory:"},
		{"SQLite in shared memory", "sqlite:file::memory:?cache=shared", "known:"},
		{"SQLite's own URI", "sqlite:file:x.db", "memory:"},
		{"SQLite without a file", "sqlite:", "names no file"},
		{"SQLite of a folder", "sqlite:///tmp/", "names no file"},
		{"SQLite with a host", "sqlite://sessions.db", "sqlite:sessions.db"},
		{"SQLite that is not safe", "sqlite:x.db?synchronous=off", "power cut"},
		{"SQLite read-only", "sqlite:x.db?mode=ro", "known:"},
		{"SQLite in a folder that is not there", "sqlite://" + missing + "/x.db", "folder"},
		{"SQLite of a file that is not there", "sqlite://" + missing + "?migrate=false", "the file is missing"},
	} {
		s, err := session.Open(t.Context(), tt.url)
		if err == nil {
			session.Close(s)
		}
		misconfigured(t, tt.why, err, tt.says)
		if err != nil && strings.Contains(fmt.Sprintf("%+v", err), secret) {
			t.Errorf("%s: the error shows the password: %v", tt.why, err)
		}
	}
}

// open tells what is wrong with the database at a URL, also where the machine
// is too busy for Open to wait until it is known.
func open(t *testing.T, rawURL string) error {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("dial_timeout", "20s")
	u.RawQuery = q.Encode()
	s, err := session.Open(t.Context(), u.String())
	if err != nil {
		return err
	}
	defer session.Close(s)
	return s.(*sqlstore.Store).Check(t.Context())
}

// What the database says to a wrong password, user or database must be mended,
// and shows nothing.
func testRefused(t *testing.T, e *env) {
	const secret = "hunter2secret"
	t.Setenv("SQLSTORE_TEST_PASSWORD", secret)
	scheme := string(e.dialect)
	good := ":" + servers.SQLPassword
	for _, tt := range []struct{ why, url string }{
		{"the password", scheme + "://" + servers.SQLUser + ":" + secret + "@" + e.addr + "/" + servers.SQLUser},
		{"the password, by reference", scheme + "://" + servers.SQLUser + "@" + e.addr + "/" + servers.SQLUser + "?password=env:SQLSTORE_TEST_PASSWORD"},
		{"the user", scheme + "://nobody" + good + "@" + e.addr + "/" + servers.SQLUser},
		{"the database", scheme + "://" + servers.SQLUser + good + "@" + e.addr + "/nowhere"},
	} {
		err := open(t, tt.url)
		misconfigured(t, tt.why, err, "password=env:NAME")
		for _, s := range []string{secret, servers.SQLPassword} {
			if err != nil && strings.Contains(fmt.Sprintf("%+v", err), s) {
				t.Errorf("%s: the error shows the password: %v", tt.why, err)
			}
		}
	}
	t.Setenv("SQLSTORE_TEST_PASSWORD", servers.SQLPassword+"\n")
	p := e.place(t)
	s := p.openURL(t, scheme+"://"+e.addr+"/"+servers.SQLUser+"?migrate=true&table="+p.table+"&username="+servers.SQLUser+"&password=env:SQLSTORE_TEST_PASSWORD")
	_, token := p.create(t, s, "ann")
	load(t, s, token)
}

// A user without the right to change the tables, or to write, is told so; one
// without the right to create them needs it only where they are missing.
func testRights(t *testing.T, e *env) {
	p := e.place(t)
	db := p.db(t)
	as := func(user string) error {
		return open(t, string(e.dialect)+"://"+user+":pw@"+e.addr+"/"+servers.SQLUser+"?migrate=true&table="+p.table)
	}
	name := func(user string) string {
		if e.dialect == sqlstore.MySQL {
			return "'" + user + "'@'127.0.0.1'"
		}
		return user
	}
	reader, writer := p.table+"_reader", p.table+"_writer"
	for _, user := range []string{reader, writer} {
		if e.dialect == sqlstore.MySQL {
			p.exec(t, db, "CREATE USER "+name(user)+" IDENTIFIED BY 'pw'")
			p.exec(t, db, "GRANT SELECT ON "+servers.SQLUser+".* TO "+name(user))
		} else {
			p.exec(t, db, "CREATE ROLE "+user+" LOGIN PASSWORD 'pw'")
		}
	}
	misconfigured(t, "a user that cannot create tables", as(writer), "GRANT")
	s := p.open(t)
	_, token := p.create(t, s, "ann")
	for _, table := range []string{p.table, p.table + "_schema", p.table + "_lease"} {
		p.exec(t, db, "GRANT SELECT ON "+table+" TO "+name(reader))
		p.exec(t, db, "GRANT SELECT, INSERT, UPDATE, DELETE ON "+table+" TO "+name(writer))
	}
	misconfigured(t, "a user that only reads", as(reader), "GRANT")
	if err := as(writer); err != nil {
		t.Errorf("a user that writes: %v", err)
	}
	load(t, s, token)
}

// Statements that are not prepared work too, through a pool that does not keep
// them.
func testUnprepared(t *testing.T, e *env) {
	p := e.place(t)
	everyCall(t, p, p.open(t, "prepare=false"))
}

// A database that was passed in works like one that Open opened, and stays open.
func testPassedIn(t *testing.T, e *env) {
	p := e.place(t)
	db := p.db(t)
	s, err := sqlstore.New(db, e.dialect, &sqlstore.Options{Table: p.table, Now: p.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	everyCall(t, p, s)
	// One connection is enough: nothing holds one while it yields.
	db.SetMaxOpenConns(1)
	for range 3 {
		p.create(t, s, "ann")
	}
	for info, err := range s.List(t.Context(), "ann") {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), info.ID); err != nil {
			t.Fatal(err)
		}
	}
	for rec, err := range s.Scan(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		save(t, s, rec)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := db.PingContext(t.Context()); err != nil {
		t.Errorf("Close closed a database that was passed in: %v", err)
	}
}

// everyCall makes each call of the store once.
func everyCall(t *testing.T, p *place, s *sqlstore.Store) {
	t.Helper()
	ctx := t.Context()
	rec, token := p.create(t, s, "ann")
	got := load(t, s, token)
	save(t, s, got)
	if _, err := s.Save(ctx, got); !errors.Is(err, session.ErrConflict) {
		t.Errorf("Save again: %v", err)
	}
	if err := s.Touch(ctx, rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
		t.Errorf("Touch: %v", err)
	}
	if got = load(t, s, token); got.Version != 2 || got.Seen.UnixMilli() != rec.Seen.Add(time.Minute).UnixMilli() || got.User != "ann" {
		t.Errorf("loaded %+v", got)
	}
	for name, call := range p.calls(s, got, token) {
		if name == "Delete" || name == "DeleteUser" {
			continue
		}
		if err := call(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := s.DeleteUser(ctx, "ann", ""); n != 1 || err != nil {
		t.Errorf("DeleteUser = %d, %v; want 1", n, err)
	}
	if _, err := s.Load(ctx, token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Load: %v", err)
	}
	if err := s.Delete(ctx, rec.ID); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

// The file of a password is read by its owner alone.
func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("hunter2secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := session.Open(t.Context(), "postgres://ann@localhost/db?password=file:"+file)
	misconfigured(t, "everybody can read it", err, "chmod")
}
