package bench_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/colinmarc/hdfs/v2"
	"github.com/distsession/session"
	_ "github.com/distsession/session/filestore"
	_ "github.com/distsession/session/hazelcaststore"
	_ "github.com/distsession/session/hdfsstore"
	_ "github.com/distsession/session/ignitestore"
	"github.com/distsession/session/internal/servers"
	_ "github.com/distsession/session/memcachedstore"
	_ "github.com/distsession/session/sqlstore"
	"github.com/redis/go-redis/v9"
)

// values are about as many bytes as the session of the other benchmarks has.
const values = `{"visits":8452217,"name":"Alice Example","login":"2026-11-22T09:30:00.123456789Z","csrf":"mVv0s7yfjG3iS0pS8m3bQe1kD2sYb6h1xw0nJq9TzLc",` +
	`"roles":["customer","reviewer","beta"],"cart":[{"sku":"tea-green","count":2,"cents":790},{"sku":"pot-glass","count":1,"cents":2950},{"sku":"cup-white","count":4,"cents":640}]}`

// A backend is a store, and beside it the least that one read and one write of
// as many bytes cost on the same server, by the same client.
type backend struct {
	store       session.Store
	read, write func(ctx context.Context) error
}

// A place is where a backend is.
type place struct {
	name string
	open func(b *testing.B) backend
}

// backends start their servers when they are asked for; one whose server is not
// installed is skipped.
var backends = []place{
	{"memory", func(b *testing.B) backend { return backend{store: session.NewMemoryStore(nil)} }},
	{"redis", onRedis},
	{"cached-redis", onCached},
	{"memcached", onMemcached},
	{"postgres", onPostgres},
	{"mariadb", onMariaDB},
	{"sqlite", onSQLite},
	{"file", onFiles},
	{"hdfs", onHDFS},
	{"infinispan", onInfinispan},
	{"hazelcast", onHazelcast},
	{"ignite", onIgnite},
}

// BenchmarkStores measures every backend's load, save and touch, one after the
// other, beside a bare read and a bare write.
func BenchmarkStores(b *testing.B) {
	for _, place := range backends {
		b.Run(place.name, func(b *testing.B) {
			p := place.open(b)
			token := session.NewToken()
			now := time.Now()
			rec := &session.Record{ID: session.ID(token), User: "alice", Device: "Firefox on Linux", Created: now, SignedIn: now, Seen: now,
				Expires: now.Add(time.Hour), Deadline: now.Add(12 * time.Hour), Data: []byte(values)}
			if _, err := p.store.Save(b.Context(), rec); err != nil {
				b.Fatal(err)
			}
			measure(b, "load", func(ctx context.Context) (err error) {
				rec, err = p.store.Load(ctx, token)
				return err
			})
			measure(b, "save", func(ctx context.Context) error {
				next := *rec
				if _, err := p.store.Save(ctx, &next); err != nil {
					return err
				}
				rec.Version++
				rec.Tag = nil
				return nil
			})
			measure(b, "load and save", func(ctx context.Context) (err error) {
				if rec, err = p.store.Load(ctx, token); err != nil {
					return err
				}
				_, err = p.store.Save(ctx, rec)
				return err
			})
			touch, _ := session.As[session.Toucher](p.store)
			seen, expires := rec.Seen, rec.Expires
			measure(b, "touch", func(ctx context.Context) error {
				seen, expires = seen.Add(time.Millisecond), expires.Add(time.Millisecond)
				return touch.Touch(ctx, rec.ID, seen, expires)
			})
			if p.read != nil {
				measure(b, "bare read", p.read)
				measure(b, "bare write", p.write)
			}
		})
	}
}

func measure(b *testing.B, name string, f func(ctx context.Context) error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := f(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func openURL(b *testing.B, rawURL string) session.Store {
	b.Helper()
	s, err := session.Open(b.Context(), rawURL)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { session.Close(s) })
	return s
}

func onRedis(b *testing.B) backend {
	server := servers.Redis(b)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	p := backend{
		store: session.NewRedisStore(client, nil),
		read:  func(ctx context.Context) error { return client.Get(ctx, "bare").Err() },
		write: func(ctx context.Context) error { return client.Set(ctx, "bare", values, time.Hour).Err() },
	}
	if err := p.write(b.Context()); err != nil {
		b.Fatal(err)
	}
	return p
}

// onCached is Redis behind copies in this process. Its loads are hits, but for
// one a second, and a touch is passed on when enough has come together.
func onCached(b *testing.B) backend {
	p := onRedis(b)
	p.store = session.Cached(p.store, nil)
	b.Cleanup(func() { session.Close(p.store) })
	return p
}

func onMemcached(b *testing.B) backend {
	server := servers.Memcached(b)
	return onMemcachedProtocol(b, server.Addr, "memcached://"+server.Addr)
}

// onInfinispan is a cluster of two members, each value on both.
func onInfinispan(b *testing.B) backend {
	m := servers.Infinispan(b, 2).Members
	return onMemcachedProtocol(b, m[0].Addr, "infinispan://"+m[0].Addr+","+m[1].Addr)
}

func onMemcachedProtocol(b *testing.B, addr, url string) backend {
	client := memcache.New(addr)
	b.Cleanup(func() { client.Close() })
	p := backend{
		store: openURL(b, url),
		read:  func(context.Context) error { _, err := client.Get("bare"); return err },
		write: func(context.Context) error {
			return client.Set(&memcache.Item{Key: "bare", Value: []byte(values), Expiration: 3600})
		},
	}
	if err := p.write(b.Context()); err != nil {
		b.Fatal(err)
	}
	return p
}

func onPostgres(b *testing.B) backend {
	server := servers.Postgres(b, servers.SQLOptions{Durable: true})
	b.Setenv("SESSION_SQL_PASSWORD", servers.SQLPassword)
	at := server.Addr + "/" + servers.SQLUser
	db := openDB(b, "pgx", "postgres://"+servers.SQLUser+":"+servers.SQLPassword+"@"+at+"?sslmode=disable")
	return onSQL(b, db, "postgres://"+servers.SQLUser+"@"+at+"?sslmode=disable&migrate=true&password=env:SESSION_SQL_PASSWORD",
		"BYTEA", "SELECT v FROM bare WHERE k = $1", "UPDATE bare SET v = $1 WHERE k = $2")
}

func onMariaDB(b *testing.B) backend {
	server := servers.MariaDB(b, servers.SQLOptions{Durable: true})
	b.Setenv("SESSION_SQL_PASSWORD", servers.SQLPassword)
	at := server.Addr
	db := openDB(b, "mysql", servers.SQLUser+":"+servers.SQLPassword+"@tcp("+at+")/"+servers.SQLUser)
	return onSQL(b, db, "mariadb://"+servers.SQLUser+"@"+at+"/"+servers.SQLUser+"?migrate=true&password=env:SESSION_SQL_PASSWORD",
		"BLOB", "SELECT v FROM bare WHERE k = ?", "UPDATE bare SET v = ? WHERE k = ?")
}

func onSQLite(b *testing.B) backend {
	file := filepath.Join(b.TempDir(), "sessions.db")
	db := openDB(b, "sqlite", "file:"+filepath.Join(b.TempDir(), "bare.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	return onSQL(b, db, "sqlite://"+file, "BLOB", "SELECT v FROM bare WHERE k = ?", "UPDATE bare SET v = ? WHERE k = ?")
}

func openDB(b *testing.B, driver, source string) *sql.DB {
	b.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// onSQL has a table of two columns for the bare queries. Each write writes
// other bytes, for a database may skip those that are there.
func onSQL(b *testing.B, db *sql.DB, rawURL, blob, read, write string) backend {
	b.Helper()
	ctx := b.Context()
	for _, text := range []string{
		"CREATE TABLE bare (k INTEGER PRIMARY KEY, v " + blob + " NOT NULL)",
		"INSERT INTO bare (k, v) VALUES (1, '')",
	} {
		if _, err := db.ExecContext(ctx, text); err != nil {
			b.Fatalf("%s: %v", text, err)
		}
	}
	prepare := func(text string) *sql.Stmt {
		b.Helper()
		s, err := db.PrepareContext(ctx, text)
		if err != nil {
			b.Fatalf("%s: %v", text, err)
		}
		b.Cleanup(func() { s.Close() })
		return s
	}
	r, w := prepare(read), prepare(write)
	text := []byte(values)
	p := backend{
		store: openURL(b, rawURL),
		read: func(ctx context.Context) error {
			var v []byte
			return r.QueryRowContext(ctx, 1).Scan(&v)
		},
		write: func(ctx context.Context) error {
			text[len(text)-3] ^= 1
			_, err := w.ExecContext(ctx, text, 1)
			return err
		},
	}
	if err := p.write(ctx); err != nil {
		b.Fatal(err)
	}
	return p
}

func onFiles(b *testing.B) backend {
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	name := filepath.Join(b.TempDir(), "bare")
	p := backend{
		store: openURL(b, "file://"+dir),
		read:  func(context.Context) error { _, err := os.ReadFile(name); return err },
		write: func(context.Context) error { return writeFile(name) },
	}
	if err := p.write(b.Context()); err != nil {
		b.Fatal(err)
	}
	return p
}

func onHDFS(b *testing.B) backend {
	addr := servers.HDFS(b, 2).Namenode.Addr
	client, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{addr}, User: servers.HDFSUser})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	write := func(context.Context) error {
		// HDFS replaces no file where it stands.
		w, err := client.Create("/bare.new")
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte(values)); err != nil {
			return err
		}
		err = w.Close()
		for hdfs.IsErrReplicating(err) { // the datanodes have it, and have not all said so
			err = w.Close()
		}
		if err != nil {
			return err
		}
		return client.Rename("/bare.new", "/bare")
	}
	p := backend{
		store: openURL(b, "hdfs://"+addr+"/sessions?user="+servers.HDFSUser),
		read:  func(context.Context) error { _, err := client.ReadFile("/bare"); return err },
		write: write,
	}
	if err := p.write(b.Context()); err != nil {
		b.Fatal(err)
	}
	return p
}

// onHazelcast has two members, each of which keeps everything. What is bare goes
// through Hazelcast's own memcached port: the store's client is the store's alone.
func onHazelcast(b *testing.B) backend {
	cluster := servers.Hazelcast(b, 2)
	client := memcache.New(cluster.Members[0].Addr)
	client.Timeout = time.Minute
	b.Cleanup(func() { client.Close() })
	p := backend{
		store: openURL(b, "hazelcast://"+strings.Join(cluster.Addrs(), ",")+"?cluster="+cluster.Cluster),
		read:  func(context.Context) error { _, err := client.Get("bare"); return err },
		write: func(context.Context) error {
			return client.Set(&memcache.Item{Key: "bare", Value: []byte(values), Expiration: 3600})
		},
	}
	if err := p.write(b.Context()); err != nil {
		b.Fatal(err)
	}
	return p
}

// onIgnite has no bare operations: nobody else speaks its protocol in Go.
func onIgnite(b *testing.B) backend {
	addrs := servers.Ignite(b, 2, servers.IgniteOptions{}).Addrs()
	return backend{store: openURL(b, "ignite://"+strings.Join(addrs, ","))}
}

// writeFile puts a file in the place of another and survives a crash, as
// editors do it.
func writeFile(name string) error {
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(values); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
