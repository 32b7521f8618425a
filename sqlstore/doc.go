// Package sqlstore keeps sessions in a database: PostgreSQL, MariaDB and MySQL,
// or SQLite in this process. docs/sql.md tells how to run it.
//
//	import _ "github.com/distsession/session/sqlstore"
//
//	store, err := session.Open(ctx, "sqlite:sessions.db")
//
// # Configuration
//
// Importing the package makes session.Open know sqlite:, postgres:// (and
// postgresql://) and mysql:// (and mariadb://). A database that the program has
// open already goes to New; drivers are pgx's stdlib, go-sql-driver/mysql and
// modernc.org/sqlite.
//
// A record is one row, and each field a column. Migrate makes the tables
// (migrate=true in the URL; SQLite's default), and Schema prints the same SQL
// for those who run their own migrations. Open and Check tell what is missing.
//
// # Guarantees
//
// Every save is a compare-and-set: one statement and one round trip, and a
// second one on MySQL and SQLite only where it lost. A save whose answer was
// lost is sent again under the same name, and finds in the row that it was
// done. It has every ability of a store but AtLeaster, for it reads from
// nothing but the primary. DeleteUser also ends what a Renew that runs meanwhile
// makes.
//
// IDs, users and devices are kept as bytes: no collation takes one user for
// another. A user name or a device of more than 1,024 bytes, and values of more
// than 64 MiB or, on MySQL, max_allowed_packet, are ErrTooLarge, and nothing is
// lost.
//
// # Expiry
//
// A record that has expired by this process's clock is not returned. It stays
// in the table until Clean removes it: run session.RunCleaner, which lets one
// node at a time do so. Saves and touches move no indexed column, so that
// PostgreSQL updates in place (HOT).
//
// # Failure
//
// Every call returns at its context's deadline, and one without a deadline after
// Options.Timeout. A broken connection is tried again twice, so that a restart
// of the server costs as little as it can; a database that is down, full or
// read-only is an error, never "no session". What was acknowledged is as durable
// as the database's commits are: by default all three survive a crash of the
// machine. A replica that becomes the primary without having it all loses what
// it lacks: replicate synchronously where a sign-out must hold.
//
// A node whose clock is ahead ends sessions that much earlier. The cleaner waits
// a minute before it removes a record, and the lease goes by the database's
// clock.
package sqlstore
