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
}

func runEverywhere(t *testing.T, e *env) {
	for _, tt := range everywhere {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, e) })
	}
}

func TestSQLite(t *testing.T) {
	runEverywhere(t, &env{dialect: sqlstore.SQLite, maxData: 16 << 20})
}

func TestPostgreSQL(t *testing.T) {
	server := servers.Postgres(t, servers.SQLOptions{})
	runEverywhere(t, &env{dialect: sqlstore.PostgreSQL, addr: server.Addr, maxData: 16 << 20})
}

func TestMariaDB(t *testing.T) {
	server := servers.MariaDB(t, servers.SQLOptions{})
	runEverywhere(t, &env{dialect: sqlstore.MySQL, addr: server.Addr, maxData: 15 << 20})
}
