package sqlstore

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgres is PostgreSQL. The expiry is not in an index: where an indexed
// column changes, the update is not HOT and writes every index anew. due is, and
// a save or a touch leaves it alone. fillfactor leaves room for the new version
// of a row on the page of the old one, which HOT needs.
var postgres = &traits{
	name: "PostgreSQL", numbered: true, atomic: true, upsert: true,
	greatest: "GREATEST", least: "LEAST",
	trail: "CAST(? AS text) || substr(trail, 1, 12)",
	clock: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
	judge: judgePostgres,
	schema: []step{{1, 1, []string{`CREATE TABLE IF NOT EXISTS {t} (
  id        bytea   NOT NULL PRIMARY KEY, -- the session's ID, as text
  version   bigint  NOT NULL,
  created   bigint  NOT NULL,             -- all times: milliseconds since 1970
  signed_in bigint,                       -- NULL for nobody
  seen      bigint  NOT NULL,
  expires   bigint  NOT NULL,
  deadline  bigint,                       -- NULL for none
  due       bigint  NOT NULL,             -- when the cleaner looks at it; never after expires
  persist   boolean NOT NULL,
  replaced  boolean NOT NULL,
  trail     text    NOT NULL,             -- the names of the last three writes
  user_name bytea,                        -- UTF-8; NULL for nobody
  device    bytea   NOT NULL,             -- UTF-8
  data      bytea   NOT NULL              -- the values, a JSON object
) WITH (fillfactor = 80)`,
		`CREATE INDEX IF NOT EXISTS {base}_by_due ON {t} (due)`,
		`CREATE INDEX IF NOT EXISTS {base}_by_user ON {t} (user_name, id) WHERE user_name IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS {lease} (
  name       text   NOT NULL PRIMARY KEY, -- what one node at a time does
  holder     text   NOT NULL,
  held_until bigint NOT NULL              -- by the server's clock
)`,
	}}},
	lock: func(table string) (lock, unlock statement) {
		// In one statement, without parameters, they are one message.
		return statement{text: "BEGIN; SELECT pg_advisory_xact_lock(hashtext('sqlstore " + table + "'))"}, statement{text: "COMMIT"}
	},
	undo: "ROLLBACK",
	primary: `SELECT CASE
  WHEN pg_is_in_recovery() THEN 'this server is a replica; sessions are kept on the primary (several hosts in the URL find it)'
  WHEN current_setting('transaction_read_only') = 'on' THEN 'the connection is read-only (default_transaction_read_only); let the database user write'
  ELSE '' END`,
}

func judgePostgres(err error) fault {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		var dial *pgconn.ConnectError
		if errors.As(err, &dial) || pgconn.SafeToRetry(err) {
			return broken
		}
		return judgeAny(err)
	}
	switch e.Code {
	case "40001", "40P01", "55P03":
		return clash
	case "23505":
		return duplicate
	case "54000", "22001":
		return tooLarge
	case "42P01", "42703", "3F000":
		return missing
	case "42501":
		return forbidden
	case "25006":
		return readOnly
	case "28000", "28P01", "3D000":
		return refused
	case "57P01", "57P02", "57P03", "53300":
		return broken
	}
	if e.Code[:min(2, len(e.Code))] == "08" {
		return broken
	}
	return failed
}

// The statements of PostgreSQL that find out in one round trip.
const (
	// The outer query sees the table as it was before the update: where the
	// update changed nothing, it tells why.
	pgUpdate = `WITH done AS (` + updateSQL + ` RETURNING 1)
SELECT (SELECT count(*) FROM done), s.version, s.expires, s.trail FROM (SELECT 1) AS one LEFT JOIN {t} AS s ON s.id = ?`

	// Rows are locked in the order of their IDs, so that two of them never wait
	// for each other. The outer query counts what was there when the statement
	// began: a row that a Renew replaced while this waited for its lock is none
	// that was ended, but tells that there is a new one to look for.
	pgDeleteUser = `WITH ended AS (
  DELETE FROM {t} WHERE NOT replaced AND id IN
    (SELECT id FROM {t} WHERE user_name = ? AND id <> ? AND NOT replaced ORDER BY id FOR UPDATE)
  RETURNING expires)
SELECT (SELECT count(*) FROM {t} WHERE user_name = ? AND id <> ? AND NOT replaced), count(*) FILTER (WHERE expires > ?) FROM ended`

	// A row that somebody holds is left for the next time: nobody waits.
	pgClean = `WITH candidate AS MATERIALIZED (
  SELECT id FROM {t} WHERE due <= ? ORDER BY due LIMIT ? FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM {t} AS s USING candidate WHERE s.id = candidate.id AND s.expires <= ? RETURNING 1),
later AS (UPDATE {t} AS s SET due = s.expires FROM candidate WHERE s.id = candidate.id AND s.expires > ? RETURNING 1)
SELECT (SELECT count(*) FROM candidate), (SELECT count(*) FROM gone)`
)
