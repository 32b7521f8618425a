package sqlstore_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/sqlstore"
)

func testSQLite(t *testing.T, e *env) {
	t.Run("the file and those beside it are the owner's", func(t *testing.T) {
		p := e.place(t)
		s := p.open(t)
		p.create(t, s, "ann")
		files, err := filepath.Glob(p.file + "*")
		if err != nil || len(files) < 2 {
			t.Fatalf("%v, %v; want the file and its log", files, err)
		}
		for _, name := range files {
			fi, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if fi.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", name, fi.Mode())
			}
		}
	})
	t.Run("a file of strange name", func(t *testing.T) {
		p := e.place(t)
		p.file = filepath.Join(filepath.Dir(p.file), "ann & bob #1?100%.db")
		escaped := strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", " ", "%20").Replace(p.file)
		everyCall(t, p, p.openURL(t, "sqlite://"+escaped))
		if _, err := os.Stat(p.file); err != nil {
			t.Error(err)
		}
	})
	t.Run("a file in this folder", func(t *testing.T) {
		t.Chdir(t.TempDir())
		p := e.place(t)
		s := p.openURL(t, "sqlite:sessions.db")
		everyCall(t, p, s)
		s.Close()
		if _, err := os.Stat("sessions.db"); err != nil {
			t.Error(err)
		}
	})
	t.Run("durable unless told otherwise", func(t *testing.T) {
		for params, want := range map[string]int{"": 2, "synchronous=normal": 1} {
			p := e.place(t)
			s := p.open(t, params)
			if got := sqlstore.Pragma(t, s, "synchronous"); got != want {
				t.Errorf("%q: synchronous is %d; want %d", params, got, want)
			}
		}
	})
	t.Run("what is no database", func(t *testing.T) {
		p := e.place(t)
		if err := os.WriteFile(p.file, []byte(strings.Repeat("no database at all ", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := session.Open(t.Context(), p.url())
		misconfigured(t, "Open", err, "no database")
	})
	t.Run("read-only", func(t *testing.T) {
		p := e.place(t)
		_, token := p.create(t, p.open(t), "ann")
		for _, param := range []string{"mode=ro", "_pragma=query_only(1)"} {
			db, err := sql.Open("sqlite", "file:"+p.file+"?"+param)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			s, err := sqlstore.New(db, sqlstore.SQLite, &sqlstore.Options{Table: p.table})
			if err != nil {
				t.Fatal(err)
			}
			misconfigured(t, param, s.Check(t.Context()), "read-only")
			load(t, s, token)
		}
	})
	t.Run("two processes", func(t *testing.T) { ledger.TwoProcesses(t, e.place(t).url("synchronous=normal"), 4, 200) })
	t.Run("a clock one minute off", func(t *testing.T) { testClocks(t, e) })
	t.Run("cleaners", func(t *testing.T) { testRunCleaner(t, e.place(t), func() {}) })
	t.Run("killed under load", func(t *testing.T) { testKilledProcess(t, e.place(t)) })
	t.Run("a locked file ends with the context", func(t *testing.T) { testLocked(t, e.place(t)) })
	t.Run("full", func(t *testing.T) { testFullFile(t, e.place(t)) })
}

// Another process may hold the file: whoever waits for it returns in time.
func testLocked(t *testing.T, p *place) {
	s := p.open(t)
	rec, token := p.create(t, s, "ann")
	db := p.db(t)
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	h := site(t, s)
	up(t, h, token, "ann") // who reads waits for nobody
	for _, what := range []string{"the first holds the writer", "the next waits for it"} {
		at := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := s.Delete(ctx, rec.ID)
		cancel()
		wantErr(t, what, err, context.DeadlineExceeded)
		if d := time.Since(at); d > 3*time.Second {
			t.Errorf("%s: after %v", what, d)
		}
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), rec.ID); err != nil {
		t.Error(err)
	}
}

// A file that may not grow is an error, signs nobody out, and passes.
func testFullFile(t *testing.T, p *place) {
	db := p.db(t)
	db.SetMaxOpenConns(1) // the limit is the connection's
	s, err := sqlstore.New(db, sqlstore.SQLite, &sqlstore.Options{Table: p.table})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, token := p.create(t, s, "ann")
	ended, endedToken := p.create(t, s, "ann")
	testFull(t, p, s, token, func() (free func()) {
		p.exec(t, db, fmt.Sprintf("PRAGMA max_page_count = %d", p.number(t, db, "PRAGMA page_count")+40))
		return func() { p.exec(t, db, "PRAGMA max_page_count = 1000000") }
	}, func() {
		if err := s.Delete(t.Context(), ended.ID); err != nil {
			t.Errorf("Delete while the file is full: %v", err)
		}
		_, err := s.Load(t.Context(), endedToken)
		if !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Load of what was ended: %v", err)
		}
	})
}

// What a process that testKilledProcess starts finds in its environment.
const envURL, envToken = "SQLSTORE_TEST_URL", "SQLSTORE_TEST_TOKEN"

// addHere adds to the number in a session, and tells each that was
// acknowledged, until it is killed.
func addHere() error {
	ctx := context.Background()
	s, err := session.Open(ctx, os.Getenv(envURL))
	if err != nil {
		return err
	}
	for n := 1; ; n++ {
		rec, err := s.Load(ctx, os.Getenv(envToken))
		if err != nil {
			return err
		}
		rec.Data = strconv.AppendInt(nil, int64(n), 10)
		if _, err := s.Save(ctx, rec); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// A process that is killed in the middle of a write leaves a file that another
// reads, with all that it acknowledged.
func testKilledProcess(t *testing.T, p *place) {
	s := p.open(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, token := p.create(t, s, "ann")
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), envURL+"="+p.url(), envToken+"="+token)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked := 0
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if acked, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatalf("the process says %q", lines.Text())
			}
			if acked == 30 {
				cmd.Process.Kill() // and read what it said until then
			}
		}
		cmd.Wait()
		if acked < 30 {
			t.Fatalf("the process ended after %d", acked)
		}
		got, err := strconv.Atoi(string(load(t, s, token).Data))
		if err != nil || got < acked || got > acked+1 {
			t.Errorf("%d is stored, %v; %d were acknowledged", got, err, acked)
		}
	}
}
