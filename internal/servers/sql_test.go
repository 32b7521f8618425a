package servers_test

import (
	"net"
	"os"
	"testing"

	"github.com/distsession/session/internal/servers"
)

// A server that was killed starts again on its data, at its address.
func TestSQLServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB) (addr, dir string, kill func(), restart func(testing.TB)){
		"PostgreSQL": func(t testing.TB) (string, string, func(), func(testing.TB)) {
			s := servers.Postgres(t, servers.SQLOptions{})
			return s.Addr, s.Dir, s.Kill, s.Restart
		},
		"MariaDB": func(t testing.TB) (string, string, func(), func(testing.TB)) {
			s := servers.MariaDB(t, servers.SQLOptions{})
			return s.Addr, s.Dir, s.Kill, s.Restart
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, dir, kill, restart := start(t)
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
			kill()
			if conn, err := net.Dial("tcp", addr); err == nil {
				conn.Close()
				t.Error("a server that was killed answers")
			}
			restart(t)
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}
