package sqlstore

import (
	"strconv"
	"strings"
)

// A Dialect is a kind of database.
type Dialect string

// The dialects. MySQL is MariaDB too: the store keeps to what both have.
const (
	PostgreSQL Dialect = "postgresql"
	MySQL      Dialect = "mysql"
	SQLite     Dialect = "sqlite"
)

// traits is what the dialects differ in.
type traits struct {
	name     string // as people write it
	numbered bool   // parameters are $1, $2 …, not ?
	atomic   bool   // one statement changes rows and tells what it found

	greatest, least string // of two values
	trail           string // the trail of an update: a parameter and the last two names
	clock           string // the server's own, in milliseconds since 1970
	upsert          bool   // INSERT … ON CONFLICT

	schema  []step
	lock    func(table string) (lock, unlock statement) // around Migrate, on one connection
	undo    string                                      // in the place of unlock, after a failure
	primary string                                      // a query whose answer is "", or why nothing may be kept here
	judge   func(error) fault
}

// statement is SQL with its arguments.
type statement struct {
	text string
	args []any
}

var dialects = map[Dialect]*traits{
	PostgreSQL: postgres,
	MySQL:      mysqlTraits,
	SQLite:     sqlite,
}

// names fills in the tables, and what the dialects spell differently.
type names struct {
	*traits
	table string // may have a schema in front: app.sessions
}

// columns are the record's, but for id, in the order of a row. The trail is
// read apart: only a save that meets a row needs it.
const columns = "version, user_name, device, created, signed_in, seen, expires, deadline, persist, replaced, data"

// sql fills in a statement. {t}, {schema} and {lease} are the tables, {base} is
// the table's name without its schema, for the names of indexes.
func (n *names) sql(text string) string {
	text = strings.NewReplacer(
		"{t}", n.table,
		"{schema}", n.table+"_schema",
		"{lease}", n.table+"_lease",
		"{base}", n.table[strings.LastIndexByte(n.table, '.')+1:],
		"{columns}", columns,
		"{greatest}", n.greatest,
		"{least}", n.least,
		"{trail}", n.trail,
		"{clock}", n.clock,
	).Replace(text)
	if !n.numbered {
		return text
	}
	var b strings.Builder
	for i := 1; ; i++ {
		before, after, found := strings.Cut(text, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(i))
		text = after
	}
}

// marks are n parameters of a list.
func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// validTable tells whether a name can stand in SQL as it is. 40 characters
// leave room for what the names of the other tables and indexes add: PostgreSQL
// cuts at 63.
func validTable(name string, dialect Dialect) bool {
	parts := strings.Split(name, ".")
	if len(parts) > 2 || len(parts) > 1 && dialect == SQLite {
		return false
	}
	for _, part := range parts {
		if part == "" || len(part) > 40 || part[0] >= '0' && part[0] <= '9' {
			return false
		}
		for _, c := range []byte(part) {
			if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}
