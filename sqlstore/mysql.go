package sqlstore

import (
	"errors"

	"github.com/go-sql-driver/mysql"
)

// mysqlTraits is MariaDB and MySQL. Everything is bytes, so that no collation
// takes one user for another and no padding one name for another.
//
// InnoDB locks what a statement's condition looks at. Every statement that
// changes rows finds them by primary key, and several in the order of the keys,
// so that none of them waits for one that waits for it.
var mysqlTraits = &traits{
	name:     "MySQL",
	greatest: "GREATEST", least: "LEAST",
	trail: "CONCAT(?, LEFT(trail, 12))",
	clock: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)", // no time zone has a part in it
	judge: judgeMySQL,
	schema: []step{{1, 1, []string{`CREATE TABLE IF NOT EXISTS {t} (
  id        VARBINARY(255)  NOT NULL PRIMARY KEY, -- the session's ID, as text
  version   BIGINT          NOT NULL,
  created   BIGINT          NOT NULL,             -- all times: milliseconds since 1970
  signed_in BIGINT          NULL,                 -- NULL for nobody
  seen      BIGINT          NOT NULL,
  expires   BIGINT          NOT NULL,
  deadline  BIGINT          NULL,                 -- NULL for none
  due       BIGINT          NOT NULL,             -- when the cleaner looks at it; never after expires
  persist   BOOLEAN         NOT NULL,
  replaced  BOOLEAN         NOT NULL,
  trail     VARBINARY(18)   NOT NULL,             -- the names of the last three writes
  user_name VARBINARY(1024) NULL,                 -- UTF-8; NULL for nobody
  device    VARBINARY(1024) NOT NULL,             -- UTF-8
  data      LONGBLOB        NOT NULL,             -- the values, a JSON object
  INDEX {base}_by_due (due),
  INDEX {base}_by_user (user_name, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`,
		`CREATE TABLE IF NOT EXISTS {lease} (
  name       VARBINARY(255) NOT NULL PRIMARY KEY, -- what one node at a time does
  holder     VARBINARY(64)  NOT NULL,
  held_until BIGINT         NOT NULL              -- by the server's clock
) ENGINE = InnoDB`,
	}}},
	lock: func(table string) (lock, unlock statement) {
		// DO ignores the answer: where the lock is not to be had in time, the
		// statements can run side by side, for all of them say IF NOT EXISTS.
		name := []any{"sqlstore " + table}
		return statement{"DO GET_LOCK(?, 10)", name}, statement{"DO RELEASE_LOCK(?)", name}
	},
	// A user with SUPER writes to a replica all the same; it must not.
	primary: `SELECT CASE
  WHEN CAST(@@global.read_only AS CHAR) NOT IN ('0', 'OFF') THEN 'this server is read-only, as a replica is; sessions are kept on the primary'
  WHEN NOT @@session.autocommit THEN 'autocommit is off, so nothing would be kept; remove it from the connection or from init_connect'
  ELSE '' END`,
}

func judgeMySQL(err error) fault {
	var e *mysql.MySQLError
	switch {
	case errors.Is(err, mysql.ErrInvalidConn):
		return broken
	case errors.Is(err, mysql.ErrPktTooLarge):
		return tooLarge
	case !errors.As(err, &e):
		return judgeAny(err)
	}
	switch e.Number {
	case 1213, 1205, 1020: // deadlock, lock wait timeout, record has changed since last read
		return clash
	case 1062:
		return duplicate
	case 1153, 1301, 1406, 1118: // packet, function's result, column, row
		return tooLarge
	case 1146, 1054: // table, column
		return missing
	case 1142, 1143, 1370: // on a table, on a column
		return forbidden
	case 1290, 1792, 1836: // --read-only, transaction, read-only mode
		return readOnly
	case 1044, 1045, 1049, 1698: // database refused, user or password, no such database, no such login
		return refused
	case 1040, 1053, 1152, 1158, 1159, 1160, 1161, 1317, 1927, 4031: // too many, shut down, network, interrupted, killed, idle
		return broken
	}
	return failed
}
