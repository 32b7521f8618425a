package servers

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// PgBouncer starts a pool in front of a server, which hands each transaction
// to another of two connections, and returns where it listens.
func PgBouncer(t testing.TB, server *PostgresServer) (addr string) {
	t.Helper()
	program := Require(t, newest("/usr/sbin/pgbouncer", "pgbouncer"), "install the package pgbouncer")
	as := account(t, "postgres")
	dir := folderOf(t, as, "", "pgbouncer")
	users, conf := filepath.Join(dir, "users.txt"), filepath.Join(dir, "pgbouncer.ini")
	must(t, "users.txt", os.WriteFile(users, []byte(`"`+SQLUser+`" "`+SQLPassword+`"`+"\n"), 0o644))
	host, port, _ := strings.Cut(server.Addr, ":")
	for range 5 {
		own := FreePort(t)
		must(t, "pgbouncer.ini", os.WriteFile(conf, []byte(strings.Join([]string{
			"[databases]", SQLUser + " = host=" + host + " port=" + port,
			"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + own, "unix_socket_dir =",
			"auth_type = plain", "auth_file = " + users, "pool_mode = transaction", "default_pool_size = 2", "server_round_robin = 1", "",
		}, "\n")), 0o644))
		p := startAs(t, as, dir, program, conf)
		if waitFor(t, p, "pgbouncer", func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+own)
			if err == nil {
				conn.Close()
			}
			return err
		}) {
			return "127.0.0.1:" + own
		}
	}
	t.Fatal("pgbouncer does not start")
	return ""
}
