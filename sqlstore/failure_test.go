package sqlstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/faults"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
)

// dbServer is a server that can be hurt.
type dbServer struct {
	*env
	dir     string
	kill    func()
	restart func(testing.TB)
}

func postgresServer(t testing.TB, o servers.SQLOptions) *dbServer {
	s := servers.Postgres(t, o)
	return &dbServer{&env{dialect: sqlstore.PostgreSQL, addr: s.Addr}, s.Dir, s.Kill, s.Restart}
}

func mariaDBServer(t testing.TB, o servers.SQLOptions) *dbServer {
	s := servers.MariaDB(t, o)
	return &dbServer{&env{dialect: sqlstore.MySQL, addr: s.Addr}, s.Dir, s.Kill, s.Restart}
}

func TestPostgreSQLFailure(t *testing.T) { testFailure(t, postgresServer) }
func TestMariaDBFailure(t *testing.T)    { testFailure(t, mariaDBServer) }

func testFailure(t *testing.T, start func(testing.TB, servers.SQLOptions) *dbServer) {
	server := start(t, servers.SQLOptions{Durable: true})
	t.Run("a lost answer", func(t *testing.T) { testLostAnswer(t, server) })
	t.Run("half-open", func(t *testing.T) { testHalfOpen(t, server) })
	t.Run("cut", func(t *testing.T) { testCut(t, server) })
	t.Run("a clock one minute off", func(t *testing.T) { testClocks(t, server.env) })
	t.Run("two processes", func(t *testing.T) { ledger.TwoProcesses(t, server.place(t).url(), 4, 200) })
	t.Run("killed and restarted", func(t *testing.T) { testKilled(t, server) })
	t.Run("cleaners and a restart", func(t *testing.T) {
		testRunCleaner(t, server.place(t), func() { server.kill(); server.restart(t) })
	})
	t.Run("not there yet", func(t *testing.T) { testNotThereYet(t, server) })
	t.Run("a full disk", func(t *testing.T) { testFullDisk(t, start) })
}

// An answer that is lost after the server has done its work is told from a
// conflict, although others have saved meanwhile.
func testLostAnswer(t *testing.T, server *dbServer) {
	p := server.place(t)
	direct := p.open(t)
	proxy := faults.NewProxy(t, server.addr)
	behind := p.openURL(t, p.urlAt(proxy.Addr))
	p.create(t, behind, "ann") // its statements are prepared
	for _, tt := range []struct {
		why      string
		create   bool
		lost     int // answers in a row
		between  int // saves by others, before the retry
		want     error
		wantVers int64
	}{
		{"update", false, 1, 0, nil, 2},
		{"update, two answers lost", false, 2, 0, nil, 2},
		{"update, one save later", false, 1, 1, nil, 3},
		{"update, two saves later", false, 1, 2, nil, 4},
		{"update, too many saves later", false, 1, 3, session.ErrConflict, 5},
		{"create", true, 1, 0, nil, 1},
		{"create, two answers lost", true, 2, 0, nil, 1},
		{"create, two saves later", true, 1, 2, nil, 3},
	} {
		t.Run(tt.why, func(t *testing.T) {
			rec, token := p.record("ann")
			if !tt.create {
				save(t, direct, rec)
				rec = load(t, behind, token)
			}
			proxy.LoseNext(tt.lost, naming(rec.ID), func() {
				for range tt.between {
					save(t, direct, load(t, direct, token))
				}
			})
			_, err := behind.Save(t.Context(), rec)
			wantErr(t, "Save", err, tt.want)
			if n := proxy.Lost(); n != tt.lost {
				t.Fatalf("%d answers were lost", n)
			}
			if v := load(t, direct, token).Version; v != tt.wantVers {
				t.Errorf("version %d; want %d", v, tt.wantVers)
			}
			if tt.want == nil { // what another saves from here is still a conflict
				_, err = direct.Save(t.Context(), rec)
				wantErr(t, "Save again", err, session.ErrConflict)
			}
		})
	}
	rec, token := p.create(t, direct, "bob")
	lost := func(what string, err error) {
		t.Helper()
		if err != nil || proxy.Lost() != 1 {
			t.Errorf("%s: %v, %d answers lost", what, err, proxy.Lost())
		}
	}
	later := rec.Expires.Add(time.Hour)
	proxy.LoseNext(1, naming(rec.ID), nil)
	lost("Touch", behind.Touch(t.Context(), rec.ID, later, later))
	if got := load(t, direct, token); got.Expires.UnixMilli() != later.UnixMilli() {
		t.Errorf("after Touch Expires is %v; want %v", got.Expires, later)
	}
	proxy.LoseNext(1, naming(rec.ID), nil)
	lost("Delete", behind.Delete(t.Context(), rec.ID))
	_, err := direct.Load(t.Context(), token)
	wantErr(t, "Load", err, session.ErrNotFound)

	// What was ended while the answer was lost stays ended.
	_, token = p.create(t, direct, "bob")
	rec = load(t, behind, token)
	proxy.LoseNext(1, naming(rec.ID), func() {
		if err := direct.Delete(context.Background(), rec.ID); err != nil {
			t.Error(err)
		}
	})
	_, err = behind.Save(t.Context(), rec)
	wantErr(t, "Save of what was ended", err, session.ErrNotFound)
}

// naming matches a request that has this ID among its values.
func naming(id string) func([]byte) bool {
	return func(request []byte) bool { return bytes.Contains(request, []byte(id)) }
}

// calls are those of a store, each on a session that is there.
func (p *place) calls(s *sqlstore.Store, rec *session.Record, token string) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Load":   func(ctx context.Context) error { _, err := s.Load(ctx, token); return err },
		"Save":   func(ctx context.Context) error { _, err := s.Save(ctx, rec); return err },
		"Delete": func(ctx context.Context) error { return s.Delete(ctx, rec.ID) },
		"Touch":  func(ctx context.Context) error { return s.Touch(ctx, rec.ID, rec.Seen, rec.Expires) },
		"List": func(ctx context.Context) (last error) {
			for _, err := range s.List(ctx, "ann") {
				last = err
			}
			return last
		},
		"Scan": func(ctx context.Context) (last error) {
			for _, err := range s.Scan(ctx) {
				last = err
			}
			return last
		},
		"DeleteUser": func(ctx context.Context) error { _, err := s.DeleteUser(ctx, "ann", ""); return err },
		"Clean":      func(ctx context.Context) error { _, err := s.Clean(ctx, time.Now(), 10); return err },
		"Lease":      func(ctx context.Context) error { _, err := s.Lease(ctx, "x", time.Minute); return err },
		"Check":      s.Check,
		"Migrate":    s.Migrate,
	}
}

// site is an application that shows who is signed in.
func site(t *testing.T, s session.Store) http.Handler {
	t.Helper()
	m, err := session.New(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return // the ErrorHandler answers
		}
		fmt.Fprint(w, s.User())
	}))
}

// answer asks the site with a token, and checks that the answer comes within
// the manager's second, with time for a busy machine.
func answer(t *testing.T, h http.Handler, token string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", "https://shop.example/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: token})
	w := httptest.NewRecorder()
	at := time.Now()
	h.ServeHTTP(w, r)
	if d := time.Since(at); d > 5*time.Second {
		t.Errorf("the answer took %v", d)
	}
	return w
}

// down checks that a site whose store is away says so, and signs nobody out.
func down(t *testing.T, h http.Handler, token string) {
	t.Helper()
	if w := answer(t, h, token); w.Code != http.StatusServiceUnavailable || len(w.Result().Cookies()) > 0 {
		t.Errorf("status %d with cookies %v; want 503 and none", w.Code, w.Result().Cookies())
	}
}

// up waits until the site answers again.
func up(t *testing.T, h http.Handler, token, user string) {
	t.Helper()
	servers.Wait(t, "the site", 30*time.Second, func(context.Context) error {
		if w := answer(t, h, token); w.Code != http.StatusOK || w.Body.String() != user {
			return fmt.Errorf("status %d, user %q", w.Code, w.Body)
		}
		return nil
	})
}

func testHalfOpen(t *testing.T, server *dbServer) {
	p := server.place(t)
	proxy := faults.NewProxy(t, server.addr)
	s := p.openURL(t, p.urlAt(proxy.Addr, "pool_size=3"))
	_, token := p.create(t, s, "ann")
	rec := load(t, s, token)
	h := site(t, s)
	up(t, h, token, "ann")
	proxy.Stall()
	for name, call := range p.calls(s, rec, token) {
		// More calls than connections: new ones are half-open too.
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			at := time.Now()
			err := call(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrConfig) {
				t.Errorf("%s: %v; want DeadlineExceeded", name, err)
			}
			if d := time.Since(at); d > 5*time.Second {
				t.Errorf("%s returned %v after its deadline", name, d)
			}
		}
	}
	down(t, h, token)
	proxy.Heal()
	up(t, h, token, "ann")
}

func testCut(t *testing.T, server *dbServer) {
	p := server.place(t)
	proxy := faults.NewProxy(t, server.addr)
	s := p.openURL(t, p.urlAt(proxy.Addr))
	l := ledger.Start(t, s, 4, 6)
	for range 3 {
		l.During("the connections break", func() {
			proxy.Cut()
			l.Fails()
			proxy.Heal()
		})
		l.Progress()
	}
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d acknowledged saves are lost", lost)
	}
}

func testKilled(t *testing.T, server *dbServer) {
	p := server.place(t)
	s := p.open(t)
	for name, start := range map[string]func(testing.TB, session.Store, int, int) *ledger.Ledger{"store": ledger.Start, "HTTP": ledger.StartHTTP} {
		t.Run(name, func(t *testing.T) {
			rec, token := p.create(t, s, "bob")
			ended, endedToken := p.create(t, s, "bob")
			h := site(t, s)
			l := start(t, s, 4, 8)
			if err := s.Delete(t.Context(), ended.ID); err != nil {
				t.Fatal(err)
			}
			l.During("kill -9 and restart", func() {
				server.kill()
				l.Fails()
				down(t, h, token)
				server.restart(t)
			})
			l.Progress()
			if lost := l.Check(); lost != 0 {
				t.Errorf("%d acknowledged saves are lost", lost)
			}
			up(t, h, token, "bob")
			_, err := s.Load(t.Context(), endedToken)
			wantErr(t, "Load of what was ended before", err, session.ErrNotFound)
			if err := s.Delete(t.Context(), rec.ID); err != nil {
				t.Error(err)
			}
		})
	}
}

// Open does not need the database: the store makes its tables as soon as it
// answers.
func testNotThereYet(t *testing.T, server *dbServer) {
	p := server.place(t)
	proxy := faults.NewProxy(t, server.addr)
	proxy.Cut()
	s := p.openURL(t, p.urlAt(proxy.Addr))
	rec, token := p.record("ann")
	if _, err := s.Save(t.Context(), rec); err == nil || errors.Is(err, session.ErrConflict) || errors.Is(err, session.ErrNotFound) {
		t.Errorf("Save while it is not there: %v", err)
	}
	proxy.Heal()
	servers.Wait(t, "the tables", 20*time.Second, func(ctx context.Context) error { _, err := s.Save(ctx, rec); return err })
	load(t, s, token)
	// One that is never there does not hold Close up.
	proxy.Cut()
	other := p.openURL(t, p.urlAt(proxy.Addr))
	if err := other.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// Nodes whose clocks differ by a minute share sessions, and no clock but the
// node's own has a part in it.
func testClocks(t *testing.T, e *env) {
	p := e.place(t)
	node := func(off time.Duration) *sqlstore.Store {
		s := p.open(t)
		sqlstore.SetClock(s, func() time.Time { return time.Now().Add(off) })
		return s
	}
	right, ahead, behind := node(0), node(time.Minute), node(-time.Minute)
	ctx := t.Context()
	var tokens []string
	for _, s := range []*sqlstore.Store{right, ahead, behind} {
		rec, token := p.record("ann")
		rec.Expires = rec.Created.Add(5 * time.Minute)
		save(t, s, rec)
		tokens = append(tokens, token)
	}
	for i, s := range []*sqlstore.Store{ahead, behind, right} {
		rec := load(t, s, tokens[i])
		save(t, s, rec)
		now := time.Now()
		if err := s.Touch(ctx, rec.ID, now, now.Add(10*time.Minute)); err != nil {
			t.Errorf("Touch: %v", err)
		}
		if err := behind.Touch(ctx, rec.ID, now.Add(-time.Minute), now.Add(9*time.Minute)); err != nil {
			t.Errorf("Touch by the node behind: %v", err)
		}
		if got := load(t, right, tokens[i]); got.Version != 2 || got.Expires.UnixMilli() != now.Add(10*time.Minute).UnixMilli() {
			t.Errorf("version %d, Expires %v; want 2, %v", got.Version, got.Expires, now.Add(10*time.Minute))
		}
	}
	// One that is over for the node ahead, and not for the others, is ended by a
	// "sign out everywhere" there as well.
	rec, token := p.record("ann")
	rec.Expires = time.Now().Add(30 * time.Second)
	save(t, right, rec)
	load(t, behind, token)
	_, err := ahead.Load(ctx, token)
	wantErr(t, "Load by the node ahead", err, session.ErrNotFound)
	if n, err := ahead.Clean(ctx, time.Now().Add(time.Minute).Add(-time.Minute), 0); n != 0 || err != nil {
		t.Errorf("RunCleaner's minute: Clean by the node ahead = %d, %v; want 0", n, err)
	}
	load(t, behind, token)
	if n, err := ahead.DeleteUser(ctx, "ann", ""); n != 3 || err != nil {
		t.Errorf("DeleteUser by the node ahead = %d, %v; want the 3 that live for it", n, err)
	}
	for _, token := range append(tokens, token) {
		_, err := behind.Load(ctx, token)
		wantErr(t, "Load after DeleteUser", err, session.ErrNotFound)
	}
	// The lease goes by the server's clock.
	if held, err := behind.Lease(ctx, "x", 30*time.Second); !held || err != nil {
		t.Fatalf("Lease: %t, %v", held, err)
	}
	if held, err := ahead.Lease(ctx, "x", 30*time.Second); held || err != nil {
		t.Errorf("a second Lease: %t, %v", held, err)
	}
}

// fill takes all of a disk but a little.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return ballast
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A full disk is an error, signs nobody out, and passes.
func testFullDisk(t *testing.T, start func(testing.TB, servers.SQLOptions) *dbServer) {
	disk := mount(t, "24m")
	server := start(t, servers.SQLOptions{})
	p := server.place(t)
	db := p.db(t)
	schema := sqlstore.Schema(p.dialect, p.table)
	switch p.dialect {
	case sqlstore.PostgreSQL:
		own(t, server.dir, disk)
		p.exec(t, db, "CREATE TABLESPACE small LOCATION '"+disk+"'")
		schema = strings.Replace(schema, "fillfactor = 80)", "fillfactor = 80) TABLESPACE small", 1)
	default:
		schema = strings.Replace(schema, "ENGINE = InnoDB", "ENGINE = InnoDB DATA DIRECTORY = '"+disk+"'", 1)
	}
	for _, text := range strings.Split(schema, ";\n") {
		if strings.TrimSpace(text) != "" {
			p.exec(t, db, text)
		}
	}
	s := p.open(t)
	_, token := p.create(t, s, "ann")
	ended, endedToken := p.create(t, s, "ann")
	testFull(t, p, s, token, func() (free func()) {
		ballast := fill(t, disk)
		return func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}
	}, func() {
		if err := s.Delete(t.Context(), ended.ID); err != nil {
			t.Errorf("Delete while the disk is full: %v", err)
		}
		_, err := s.Load(t.Context(), endedToken)
		wantErr(t, "Load of what was ended", err, session.ErrNotFound)
	})
}

// own gives a folder to the user of another.
func own(t *testing.T, like, dir string) {
	t.Helper()
	fi, err := os.Stat(like)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		t.Fatal(err)
	}
}

// testFull takes all space, and saves until there is no more.
func testFull(t *testing.T, p *place, s *sqlstore.Store, token string, take func() (free func()), meanwhile func()) {
	t.Helper()
	free := take()
	var acked []string
	var full error
	for range 2000 {
		rec, token := p.record("bob")
		rec.Data = bytes.Repeat([]byte(session.NewToken()), 1000)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, full = s.Save(ctx, rec)
		cancel()
		if full != nil {
			break
		}
		acked = append(acked, token)
	}
	if full == nil || errors.Is(full, session.ErrNotFound) || errors.Is(full, session.ErrConflict) || errors.Is(full, session.ErrTooLarge) {
		t.Fatalf("Save while the disk is full, after %d: %v; want the store's failure", len(acked), full)
	}
	t.Logf("after %d saves: %v", len(acked), full)
	load(t, s, token)
	meanwhile()
	free()
	rec, freed := p.record("bob")
	rec.Data = bytes.Repeat([]byte(session.NewToken()), 1000)
	servers.Wait(t, "a save", 30*time.Second, func(ctx context.Context) error {
		if _, err := s.Save(ctx, rec); !errors.Is(err, session.ErrConflict) {
			return err
		}
		return nil // an attempt before was done after all
	})
	for _, token := range append(acked, freed) {
		load(t, s, token)
	}
}
