package sqlstore_test

import (
	"testing"

	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/sqlstore"
	"github.com/distsession/session/storetest"
)

// everywhere are the tests of every dialect.
var everywhere = []struct {
	name string
	test func(t *testing.T, e *env)
}{
	{"Store", func(t *testing.T, e *env) { storetest.Run(t, e.backend) }},
	{"HTTP", func(t *testing.T, e *env) { storetest.RunHTTP(t, e.backend) }},
	{"schema", testSchema},
	{"users are bytes", testBytes},
	{"foreign IDs", testForeignIDs},
	{"too large", testTooLarge},
	{"a damaged row", testDamagedRow},
	{"many sessions", testManySessions},
	{"DeleteUser ends what Renew makes", testDeleteUserRenew},
	{"Clean", testClean},
	{"Clean leaves what was touched", testCleanTouched},
	{"a database that was passed in", testPassedIn},
}

// onServers are the tests of PostgreSQL and MariaDB.
var onServers = []struct {
	name string
	test func(t *testing.T, e *env)
}{
	{"refused", testRefused},
	{"rights", testRights},
	{"unprepared", testUnprepared},
}

func runEverywhere(t *testing.T, e *env) {
	for _, tt := range everywhere {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, e) })
	}
	if e.dialect == sqlstore.SQLite {
		return
	}
	for _, tt := range onServers {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, e) })
	}
}

func TestSQLite(t *testing.T) {
	e := &env{dialect: sqlstore.SQLite, maxData: 16 << 20}
	runEverywhere(t, e)
	testSQLite(t, e)
}

func TestPostgreSQL(t *testing.T) {
	server := servers.Postgres(t, servers.SQLOptions{})
	e := &env{dialect: sqlstore.PostgreSQL, addr: server.Addr, maxData: 16 << 20}
	runEverywhere(t, e)
	testPostgreSQL(t, server, e)
}

func TestMariaDB(t *testing.T) {
	server := servers.MariaDB(t, servers.SQLOptions{})
	e := &env{dialect: sqlstore.MySQL, addr: server.Addr, maxData: 15 << 20}
	runEverywhere(t, e)
	testMariaDB(t, server, e)
}
