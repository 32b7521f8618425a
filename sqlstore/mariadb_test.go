package sqlstore_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
)

func testMariaDB(t *testing.T, server *servers.MariaDBServer, e *env) {
	t.Run("round trips", func(t *testing.T) { testRoundTrips(t, e) })
	t.Run("max_allowed_packet", func(t *testing.T) { testPacket(t, e) })
	t.Run("serializable", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		p.exec(t, db, "SET GLOBAL tx_isolation = 'SERIALIZABLE'")
		defer p.exec(t, db, "SET GLOBAL tx_isolation = DEFAULT")
		count(t, p, p.open(t))
	})
	t.Run("a server that is not strict", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		p.exec(t, db, "SET GLOBAL sql_mode = ''")
		defer p.exec(t, db, "SET GLOBAL sql_mode = DEFAULT")
		everyCall(t, p, p.open(t))
	})
	t.Run("another time zone", func(t *testing.T) {
		p := e.place(t)
		db := p.db(t)
		p.exec(t, db, "SET GLOBAL time_zone = '-11:00'")
		defer p.exec(t, db, "SET GLOBAL time_zone = DEFAULT")
		s, other := p.open(t), p.open(t)
		p.exec(t, db, "SET GLOBAL time_zone = '+13:00'")
		if held, err := s.Lease(t.Context(), "x", time.Minute); !held || err != nil {
			t.Errorf("Lease: %t, %v", held, err)
		}
		if held, err := other.Lease(t.Context(), "x", time.Minute); held || err != nil {
			t.Errorf("a second Lease: %t, %v", held, err)
		}
	})
	t.Run("without autocommit", func(t *testing.T) {
		p := e.place(t)
		p.open(t)
		db := p.db(t)
		p.exec(t, db, "SET GLOBAL autocommit = OFF")
		defer p.exec(t, db, "SET GLOBAL autocommit = ON")
		err := open(t, p.url())
		misconfigured(t, "Open", err, "autocommit")
	})
	t.Run("a socket", func(t *testing.T) {
		p := e.place(t)
		p.exec(t, p.db(t), "CREATE USER IF NOT EXISTS "+servers.SQLUser+"@localhost IDENTIFIED BY '"+servers.SQLPassword+"'")
		p.exec(t, p.db(t), "GRANT ALL ON *.* TO "+servers.SQLUser+"@localhost")
		everyCall(t, p, p.openURL(t, "mysql://"+servers.SQLUser+":"+servers.SQLPassword+"@/"+servers.SQLUser+
			"?migrate=true&table="+p.table+"&socket="+escape(filepath.Join(server.Dir, "socket"))))
	})
	t.Run("a replica", func(t *testing.T) {
		p := e.place(t)
		s := p.open(t)
		rec, token := p.create(t, s, "ann")
		db := p.db(t)
		p.exec(t, db, "CREATE USER "+p.table+"@'127.0.0.1' IDENTIFIED BY 'pw'")
		p.exec(t, db, "GRANT SELECT, INSERT, UPDATE, DELETE ON "+servers.SQLUser+".* TO "+p.table+"@'127.0.0.1'")
		mine := p.openURL(t, "mysql://"+p.table+":pw@"+e.addr+"/"+servers.SQLUser+"?table="+p.table)
		p.exec(t, db, "SET GLOBAL read_only = ON")
		for _, s := range []*sqlstore.Store{s, mine} { // the first may write all the same
			misconfigured(t, "Check", s.Check(t.Context()), "replica")
		}
		err := open(t, p.url())
		misconfigured(t, "Open", err, "replica")
		got := load(t, mine, token)
		if _, err := mine.Save(t.Context(), got); err == nil || errors.Is(err, session.ErrNotFound) || errors.Is(err, session.ErrConflict) {
			t.Errorf("Save on a replica: %v", err)
		}
		p.exec(t, db, "SET GLOBAL read_only = OFF")
		save(t, mine, got)
		if err := mine.Delete(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
	})
}

// A load and a save are one message each, and a save that lost is two.
func testRoundTrips(t *testing.T, e *env) {
	p := e.place(t)
	s := p.open(t, "pool_size=1")
	db := p.db(t)
	db.SetMaxOpenConns(1)
	everyCall(t, p, s) // everything is prepared
	messages := func() int {
		return p.number(t, db, "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'Questions'")
	}
	own := -messages()
	own += messages() // of the question itself
	rec, token := p.create(t, s, "ann")
	var loaded *session.Record
	for _, tt := range []struct {
		what string
		want int
		call func() error
	}{
		{"Load", 1, func() (err error) { loaded, err = s.Load(t.Context(), token); return err }},
		{"Save", 1, func() error { _, err := s.Save(t.Context(), loaded); return err }},
		{"a Save that lost", 2, func() error {
			if _, err := s.Save(t.Context(), loaded); !errors.Is(err, session.ErrConflict) {
				return errors.New("no conflict")
			}
			return nil
		}},
		{"Touch", 1, func() error {
			return s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Second), rec.Expires.Add(time.Second))
		}},
		{"a first Save", 1, func() error { other, _ := p.record("bob"); _, err := s.Save(t.Context(), other); return err }},
		{"Delete", 1, func() error { return s.Delete(t.Context(), rec.ID) }},
	} {
		before := messages()
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", tt.what, err)
		}
		if n := messages() - before - own; n != tt.want {
			t.Errorf("%s is %d messages; want %d", tt.what, n, tt.want)
		}
	}
}

// A statement that the server would break the connection over is not sent.
func testPacket(t *testing.T, e *env) {
	p := e.place(t)
	for params, fits := range map[string]int{"prepare=true": 1<<20 - 8<<10, "prepare=false": 500 << 10} {
		s := p.open(t, params)
		rec, token := p.create(t, s, "ann")
		aborted := func() int {
			return p.number(t, p.db(t), "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'Aborted_clients'")
		}
		before := aborted()
		for _, size := range []int{fits, 1 << 20, 3 << 20, 32 << 20} {
			got := load(t, s, token)
			got.Data = make([]byte, size)
			_, err := s.Save(t.Context(), got)
			if size < 1<<20 {
				if err != nil {
					t.Errorf("%d bytes: %v", size, err)
				}
				continue
			}
			wantErr(t, "Save", err, session.ErrTooLarge)
		}
		if got := load(t, s, token); len(got.Data) != fits || got.Version != 2 {
			t.Errorf("stored are %d bytes, version %d", len(got.Data), got.Version)
		}
		if n := aborted() - before; n != 0 {
			t.Errorf("%d connections broke", n)
		}
		if err := s.Delete(t.Context(), rec.ID); err != nil {
			t.Error(err)
		}
	}
}
