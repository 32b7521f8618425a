package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SQLUser and SQLPassword open every database of Postgres and MariaDB; the
// database's name is SQLUser too.
const (
	SQLUser     = "session"
	SQLPassword = "correct-horse-battery"
)

// PostgresServer is one PostgreSQL server.
type PostgresServer struct {
	*Process
	Addr string
	Dir  string // of its data

	isReady string
}

// SQLOptions are how a database server runs. The zero value suits a suite.
type SQLOptions struct {
	// Durable makes commits wait for the disk, as they do by default where
	// nobody tests.
	Durable bool
	// Within is the folder that the data goes to; if "", the system's for such
	// things.
	Within string
	// Conf are more arguments of the server.
	Conf []string
}

// Postgres starts a server.
func Postgres(t testing.TB, o SQLOptions) *PostgresServer {
	t.Helper()
	const hint = "install the package postgresql-15"
	bin := filepath.Dir(Require(t, newest("/usr/lib/postgresql/*/bin/initdb", "initdb"), hint))
	as := account(t, "postgres")
	dir := folderOf(t, as, o.Within, "postgres")
	data, secret := filepath.Join(dir, "data"), filepath.Join(dir, "password")
	must(t, "the password", os.WriteFile(secret, []byte(SQLPassword+"\n"), 0o644))
	runAs(t, as, dir, filepath.Join(bin, "initdb"), "-D", data, "-U", SQLUser, "--pwfile", secret,
		"-A", "md5", // SCRAM takes long where a test connects all the time
		"-E", "UTF8", "--no-locale", "-N")
	conf := append([]string{"shared_buffers=64MB", "max_connections=200", "max_wal_size=256MB", "unix_socket_directories=" + dir,
		"listen_addresses=127.0.0.1", "autovacuum_naptime=5s"}, o.Conf...)
	if !o.Durable {
		conf = append(conf, "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	for range 5 {
		port := FreePort(t)
		args := []string{filepath.Join(bin, "postgres"), "-D", data, "-p", port}
		for _, c := range conf {
			args = append(args, "-c", c)
		}
		s := &PostgresServer{Process: startAs(t, as, dir, args...), Addr: "127.0.0.1:" + port, Dir: dir,
			isReady: filepath.Join(bin, "pg_isready")}
		t.Cleanup(s.Stop) // first, so that its shared memory goes too
		if s.wait(t) {
			createdb := exec.Command(filepath.Join(bin, "createdb"), "-h", "127.0.0.1", "-p", port, "-U", SQLUser, SQLUser)
			createdb.Env = append(os.Environ(), "PGPASSWORD="+SQLPassword)
			out, err := createdb.CombinedOutput()
			must(t, "createdb: "+string(out), err)
			return s
		}
	}
	t.Fatal("postgres does not start")
	return nil
}

// Stop ends the server at once, without a checkpoint.
func (s *PostgresServer) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT) // it may have ended
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		s.Kill()
	}
}

// Kill ends the server and all that it forked, as kill -9 does: each of them
// has a process group of its own.
func (s *PostgresServer) Kill() {
	s.Pause() // it forks no more
	children := childrenOf(s.cmd.Process.Pid)
	s.Process.Kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	for _, pid := range children {
		for until := time.Now().Add(startTimeout); alive(pid) && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
	}
}

// Restart starts the server again after Kill or Stop; it recovers what it had
// promised.
func (s *PostgresServer) Restart(t testing.TB) {
	t.Helper()
	s.run(t)
	if !s.wait(t) {
		t.Fatalf("postgres at %s does not start again", s.Addr)
	}
}

// wait waits until the server answers, and tells whether it runs.
func (s *PostgresServer) wait(t testing.TB) bool {
	t.Helper()
	_, port, _ := strings.Cut(s.Addr, ":")
	return waitFor(t, s.Process, "postgres at "+s.Addr, func(ctx context.Context) error {
		return exec.CommandContext(ctx, s.isReady, "-q", "-h", "127.0.0.1", "-p", port).Run()
	})
}

// childrenOf are the processes that pid started.
func childrenOf(pid int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		child, parent, _, err := readStat(name)
		if err == nil && parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// alive tells whether a process runs. A zombie does not.
func alive(pid int) bool {
	_, _, state, err := readStat("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && state != "Z" && state != "X"
}

// readStat reads proc(5)'s "pid (comm) state ppid …"; comm may hold anything.
func readStat(name string) (pid, parent int, state string, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, 0, "", err
	}
	text := string(b)
	end := strings.LastIndexByte(text, ')')
	if end < 0 {
		return 0, 0, "", errors.New("no name in " + name)
	}
	if _, err := fmt.Sscan(text, &pid); err != nil {
		return 0, 0, "", err
	}
	_, err = fmt.Sscan(text[end+1:], &state, &parent)
	return pid, parent, state, err
}
