package sqlstore

import (
	"context"
	"database/sql"
	"net/url"
	"strconv"
	"time"

	"github.com/distsession/session"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// libpq's parameters that pass through to pgx.
var pgParams = []string{"sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni", "target_session_attrs", "application_name", "search_path"}

// pgIdle is how long a connection rests before it is tried out.
const pgIdle = 30 * time.Second

// openPostgres takes several hosts: postgres://user@h1:5432,h2:5432/db.
func openPostgres(ctx context.Context, u *url.URL) (session.Store, error) {
	p := session.NewParams(u)
	c, err := readServer(u, p)
	if err != nil {
		return nil, err
	}
	pass := url.Values{}
	for _, name := range pgParams {
		if v := p.String(name, ""); v != "" {
			pass.Set(name, v)
		}
	}
	prepare, _ := strconv.ParseBool(p.String("prepare", "true"))
	if err := checkParams(p, u); err != nil {
		return nil, err
	}
	if c.socket != "" {
		pass.Set("host", c.socket)
	}
	if !pass.Has("application_name") {
		pass.Set("application_name", "session")
	}
	// The password is not in the text that pgx may repeat in an error.
	dsn := url.URL{Scheme: "postgres", User: url.User(c.user), Host: c.host, Path: "/" + c.database, RawQuery: pass.Encode()}
	cfg, err := pgx.ParseConfig(dsn.String())
	if err != nil {
		return nil, configError("%s: %w", u.Scheme, err)
	}
	if len(hosts(cfg)) > 1 && !pass.Has("target_session_attrs") {
		pass.Set("target_session_attrs", "read-write") // the primary, whichever it is
		dsn.RawQuery = pass.Encode()
		if cfg, err = pgx.ParseConfig(dsn.String()); err != nil {
			return nil, configError("%s: %w", u.Scheme, err)
		}
	}
	if c.password != "" {
		cfg.Password = c.password
	}
	cfg.ConnectTimeout = c.dialTimeout
	if c.options.NoPrepare = !prepare; !prepare {
		cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	// The driver's ping after a second of rest would be a second round trip for
	// most requests of a quiet site. A connection that is dead after all costs
	// another attempt.
	ping := stdlib.OptionShouldPing(func(_ context.Context, p stdlib.ShouldPingParams) bool { return p.IdleDuration > pgIdle })
	db := c.pool(sql.OpenDB(stdlib.GetConnector(*cfg, ping)))
	return c.start(ctx, db, db, PostgreSQL)
}

// hosts are the servers that a configuration names. (A fallback may be the same
// one, without TLS.)
func hosts(cfg *pgx.ConnConfig) map[string]bool {
	all := map[string]bool{cfg.Host + ":" + strconv.Itoa(int(cfg.Port)): true}
	for _, f := range cfg.Fallbacks {
		all[f.Host+":"+strconv.Itoa(int(f.Port))] = true
	}
	return all
}
