package servers

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// MariaDBServer is one MariaDB server.
type MariaDBServer struct {
	*Process
	Addr string
	Dir  string // of its data
}

// MariaDB starts a server.
func MariaDB(t testing.TB, o SQLOptions) *MariaDBServer {
	t.Helper()
	const hint = "install the package mariadb-server"
	install := Require(t, "mariadb-install-db", hint)
	program := Require(t, newest("/usr/sbin/mariadbd", "mariadbd"), hint)
	as := account(t, "mysql")
	dir := folderOf(t, as, o.Within, "mariadb")
	data, init := filepath.Join(dir, "data"), filepath.Join(dir, "init.sql")
	must(t, "init.sql", os.WriteFile(init, []byte(
		"CREATE DATABASE IF NOT EXISTS "+SQLUser+";\n"+
			"CREATE USER IF NOT EXISTS '"+SQLUser+"'@'127.0.0.1' IDENTIFIED BY '"+SQLPassword+"';\n"+
			"GRANT ALL ON *.* TO '"+SQLUser+"'@'127.0.0.1' WITH GRANT OPTION;\n"), 0o644))
	runAs(t, as, dir, install, "--no-defaults", "--datadir="+data, "--skip-test-db", "--auth-root-authentication-method=normal",
		"--innodb-log-file-size=32M")
	conf := []string{"--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--max-connections=200", "--skip-name-resolve",
		"--bind-address=127.0.0.1", "--init-file=" + init, "--socket=" + filepath.Join(dir, "socket"), "--pid-file=" + filepath.Join(dir, "pid")}
	if !o.Durable {
		conf = append(conf, "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite")
	}
	for range 5 {
		port := FreePort(t)
		args := append([]string{program, "--no-defaults", "--datadir=" + data, "--port=" + port}, append(conf, o.Conf...)...)
		s := &MariaDBServer{Process: startAs(t, as, dir, args...), Addr: "127.0.0.1:" + port, Dir: dir}
		if s.wait(t) {
			return s
		}
	}
	t.Fatal("mariadbd does not start")
	return nil
}

// Stop ends the server in order.
func (s *MariaDBServer) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-s.done
}

// Restart starts the server again after Kill or Stop; it recovers what it had
// promised.
func (s *MariaDBServer) Restart(t testing.TB) {
	t.Helper()
	s.run(t)
	if !s.wait(t) {
		t.Fatalf("mariadbd at %s does not start again", s.Addr)
	}
}

// wait waits until the server greets, which it does when init.sql has run.
func (s *MariaDBServer) wait(t testing.TB) bool {
	t.Helper()
	return waitFor(t, s.Process, "mariadbd at "+s.Addr, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		var greeting [5]byte // four of length and number, then the protocol's version
		if _, err := io.ReadFull(conn, greeting[:]); err != nil {
			return err
		}
		if greeting[4] != 10 {
			return errors.New("no greeting")
		}
		return nil
	})
}
