package sqlstore_test

import (
	"testing"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
)

// A load against the same statement without the store, which reads one column;
// a first save with an update; a touch.
//
//	go test -run xxx -bench . ./sqlstore

func BenchmarkSQLite(b *testing.B) { benchmark(b, &env{dialect: sqlstore.SQLite}) }

func BenchmarkPostgreSQL(b *testing.B) {
	s := servers.Postgres(b, servers.SQLOptions{Durable: true})
	benchmark(b, &env{dialect: sqlstore.PostgreSQL, addr: s.Addr})
}

func BenchmarkMariaDB(b *testing.B) {
	s := servers.MariaDB(b, servers.SQLOptions{Durable: true})
	benchmark(b, &env{dialect: sqlstore.MySQL, addr: s.Addr})
}

func benchmark(b *testing.B, e *env) {
	p := e.place(b)
	s := p.open(b)
	rec, token := p.record("ann")
	rec.Data = make([]byte, 300)
	save(b, s, rec)
	db := p.db(b)
	db.SetMaxIdleConns(16)
	mark := "?"
	if e.dialect == sqlstore.PostgreSQL {
		mark = "$1"
	}
	raw, err := db.Prepare("SELECT data FROM " + p.table + " WHERE id = " + mark)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := f(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	run("raw select", func() error {
		var data []byte
		return raw.QueryRow([]byte(rec.ID)).Scan(&data)
	})
	run("load", func() error { _, err := s.Load(b.Context(), token); return err })
	run("create and save", func() error {
		rec, _ := p.record("ann")
		rec.Data = make([]byte, 300)
		_, err := s.Save(b.Context(), rec)
		if err == nil {
			rec.Version = 1
			_, err = s.Save(b.Context(), rec)
		}
		return err
	})
	b.Run("touch", func(b *testing.B) {
		for b.Loop() {
			if err := s.Touch(b.Context(), rec.ID, p.clock.Now(), p.clock.Now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
