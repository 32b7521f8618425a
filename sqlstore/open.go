package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/later"
)

func init() {
	session.Register("sqlite", openSQLite)
	session.Register("postgres", openPostgres)
	session.Register("postgresql", openPostgres)
	session.Register("mysql", openMySQL)
	session.Register("mariadb", openMySQL)
}

const (
	dialTimeout  = time.Second
	poolSize     = 16
	connLifetime = 5 * time.Minute // a connection to what has become a replica ends some time

	firstCheck = 5 * time.Second  // that Open takes at most where the database does not answer
	setup      = 30 * time.Second // that it takes where it does: Migrate waits for other nodes
	nextCheck  = time.Second      // at first, then ever longer
)

// config is what the URLs of all dialects say.
type config struct {
	options  Options
	migrate  bool
	poolSize int
	password string // named by reference
}

func (c *config) read(p *session.Params, migrate string) {
	c.options.Table = p.String("table", "sessions")
	c.options.Timeout = p.Duration("timeout", defaultTimeout)
	c.poolSize = p.Int("pool_size", 0)
	c.migrate, _ = strconv.ParseBool(p.String("migrate", migrate)) // what it cannot parse, checkBool refuses
}

// server reads what the two servers have in common.
type server struct {
	config
	user, host, socket, database string
	dialTimeout                  time.Duration
}

// readServer reads
//
//	scheme://[user[:password]@]host[:port]/database
//
// Its errors repeat nothing of the URL but the names and values of parameters.
func readServer(u *url.URL, p *session.Params) (*server, error) {
	// In a password that is not escaped "/" and "?" end the host, and the rest,
	// up to the "@", lands in what follows: it must not be repeated.
	if u.Opaque != "" || strings.Contains(u.EscapedPath()+u.RawQuery, "@") {
		return nil, configError("%s: the URL cannot be read; write %s://user@host:port/database?password=env:NAME, and escape special characters (@ is %%40, / is %%2F, ? is %%3F)", u.Scheme, u.Scheme)
	}
	c := &server{host: u.Host, database: strings.Trim(u.Path, "/")}
	c.read(p, "false")
	c.dialTimeout = p.Duration("dial_timeout", dialTimeout)
	c.socket = p.String("socket", "")
	c.password = string(p.Secret("password"))
	c.user = p.String("username", "")
	if u.User != nil {
		if c.user != "" {
			return nil, configError("%s: the user stands both before the host and in the parameters; keep one", u.Scheme)
		}
		c.user = u.User.Username()
		if password, ok := u.User.Password(); ok {
			if c.password != "" {
				return nil, configError("%s: the password stands both before the host and in the parameters; keep the parameter", u.Scheme)
			}
			c.password = password
		}
	}
	switch {
	case (u.Host == "") == (c.socket == ""):
		return nil, configError("%s: the URL names no host, or a host and a socket; write %s://user@host:port/database or %s:///database?socket=/path", u.Scheme, u.Scheme, u.Scheme)
	case c.database == "" || strings.Contains(c.database, "/"):
		return nil, configError("%s: the path is the database's name; write %s://user@host:port/database", u.Scheme, u.Scheme)
	case c.user == "":
		return nil, configError("%s: the URL names no user; write %s://user@host:port/database", u.Scheme, u.Scheme)
	case c.dialTimeout == 0:
		return nil, configError("%s: dial_timeout is longer than 0, such as 500ms", u.Scheme)
	}
	return c, nil
}

// checkParams is p.Err, and refuses what is neither true nor false.
func checkParams(p *session.Params, u *url.URL) error {
	for _, name := range []string{"migrate", "prepare"} {
		if v := u.Query().Get(name); v != "" {
			if _, err := strconv.ParseBool(v); err != nil {
				return configError("%s: parameter %s is %q; it takes true or false", u.Scheme, name, v)
			}
		}
	}
	return p.Err()
}

// pool suits a request: connections are kept, and not for ever.
func (c *config) pool(db *sql.DB) *sql.DB {
	n := cmp.Or(c.poolSize, poolSize)
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	db.SetConnMaxLifetime(connLifetime)
	return db
}

// start makes the store and looks whether it can be used. A database that does
// not answer is no reason not to start: the store goes on looking, and until
// then its calls fail.
func (c *config) start(ctx context.Context, write, read *sql.DB, dialect Dialect) (session.Store, error) {
	s, err := newStore(write, read, dialect, &c.options)
	if err != nil {
		return nil, errors.Join(err, write.Close(), read.Close())
	}
	s.own = true
	err = s.ready(ctx, c.migrate)
	switch {
	case err == nil:
	case isConfig(err) || ctx.Err() != nil:
		return nil, errors.Join(err, s.Close())
	default:
		slog.Warn("session: the database does not answer yet", "error", err)
		s.readyLater(c.migrate)
	}
	return s, nil
}

// ready makes the tables if it is asked to, and checks.
func (s *Store) ready(ctx context.Context, migrate bool) error {
	first, cancel := context.WithTimeout(ctx, firstCheck)
	defer cancel()
	if err := s.write.PingContext(first); err != nil {
		return s.explain(first, "connect", err)
	}
	rest, cancel := context.WithTimeout(ctx, setup)
	defer cancel()
	err := s.Check(rest)
	var outdated *outdatedError
	if !migrate || !errors.As(err, &outdated) {
		return err // where all is well, no right to create tables is needed
	}
	if err := s.Migrate(rest); err != nil {
		return s.explain(rest, "migrate", err)
	}
	return s.Check(rest)
}

func (s *Store) readyLater(migrate bool) {
	s.stop = later.Until(nextCheck, func(ctx context.Context) bool {
		err := s.ready(ctx, migrate)
		if isConfig(err) && ctx.Err() == nil {
			slog.Error("session: the database cannot be used; mend it and start again", "error", err)
			return true
		}
		return err == nil
	})
}
