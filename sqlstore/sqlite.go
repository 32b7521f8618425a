package sqlstore

import (
	"errors"

	driver "modernc.org/sqlite"
	code "modernc.org/sqlite/lib"
)

// sqlite is SQLite 3.42 or newer, in this process. A table with rowids beats
// one without for rows of some hundred bytes.
var sqlite = &traits{
	name: "SQLite", upsert: true,
	greatest: "max", least: "min",
	trail: "? || substr(trail, 1, 12)",
	clock: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
	judge: judgeSQLite,
	schema: []step{{1, 1, []string{`CREATE TABLE IF NOT EXISTS {t} (
  id        BLOB    NOT NULL PRIMARY KEY, -- the session's ID, as text
  version   INTEGER NOT NULL,
  created   INTEGER NOT NULL,             -- all times: milliseconds since 1970
  signed_in INTEGER,                      -- NULL for nobody
  seen      INTEGER NOT NULL,
  expires   INTEGER NOT NULL,
  deadline  INTEGER,                      -- NULL for none
  due       INTEGER NOT NULL,             -- when the cleaner looks at it; never after expires
  persist   INTEGER NOT NULL,
  replaced  INTEGER NOT NULL,
  trail     TEXT    NOT NULL,             -- the names of the last three writes
  user_name BLOB,                         -- UTF-8; NULL for nobody
  device    BLOB    NOT NULL,             -- UTF-8
  data      BLOB    NOT NULL              -- the values, a JSON object
)`,
		`CREATE INDEX IF NOT EXISTS {base}_by_due ON {t} (due)`,
		`CREATE INDEX IF NOT EXISTS {base}_by_user ON {t} (user_name, id) WHERE user_name IS NOT NULL`,
		`CREATE TABLE IF NOT EXISTS {lease} (
  name       TEXT    NOT NULL PRIMARY KEY, -- what one node at a time does
  holder     TEXT    NOT NULL,
  held_until INTEGER NOT NULL              -- by the machine's clock
)`,
	}}},
	lock: func(string) (lock, unlock statement) {
		return statement{text: "BEGIN IMMEDIATE"}, statement{text: "COMMIT"}
	},
	undo: "ROLLBACK",
}

func judgeSQLite(err error) fault {
	var e *driver.Error
	if !errors.As(err, &e) {
		return judgeAny(err)
	}
	// There is no code of its own for a table or a column that is missing.
	if e.Code() == code.SQLITE_ERROR && noSuch(e.Error()) {
		return missing
	}
	switch e.Code() & 0xff { // the extended code's first byte
	case code.SQLITE_BUSY, code.SQLITE_LOCKED:
		return clash
	case code.SQLITE_TOOBIG:
		return tooLarge
	case code.SQLITE_READONLY:
		return readOnly
	case code.SQLITE_PERM, code.SQLITE_AUTH:
		return forbidden
	case code.SQLITE_CANTOPEN, code.SQLITE_NOTADB:
		return refused
	}
	return failed
}
