package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// MemcachedServer is one memcached server.
type MemcachedServer struct {
	*Process
	Addr string
}

// Memcached starts a server; conf are arguments such as "-m", "64".
func Memcached(t testing.TB, conf ...string) *MemcachedServer {
	t.Helper()
	program := Require(t, "memcached", "install the package memcached")
	for range 5 {
		port := FreePort(t)
		args := []string{program, "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "2"}
		if os.Getuid() == 0 {
			args = append(args, "-u", "root") // or it does not start; its files are in a directory of ours
		}
		s := &MemcachedServer{Process: start(t, t.TempDir(), append(args, conf...)...), Addr: "127.0.0.1:" + port}
		if s.wait(t) {
			return s
		}
	}
	t.Fatal("memcached does not start")
	return nil
}

// Restart starts the server again after Kill. It is empty.
func (s *MemcachedServer) Restart(t testing.TB) {
	t.Helper()
	s.run(t)
	if !s.wait(t) {
		t.Fatalf("memcached at %s does not start again", s.Addr)
	}
}

// wait waits until the server listens, and tells whether it runs.
func (s *MemcachedServer) wait(t testing.TB) (runs bool) {
	t.Helper()
	Wait(t, "memcached at "+s.Addr, startTimeout, func(ctx context.Context) error {
		select {
		case <-s.done:
			return nil
		default:
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
		if err != nil {
			return err
		}
		runs = true
		return conn.Close()
	})
	return runs
}

// Ask sends commands over a connection of its own and returns the answers'
// lines, up to the one that ends each: for what a client cannot ask.
func (s *MemcachedServer) Ask(t testing.TB, commands ...string) []string {
	t.Helper()
	lines, err := askMemcached(s.Addr, commands...)
	must(t, "ask memcached", err)
	return lines
}

func askMemcached(addr string, commands ...string) ([]string, error) {
	conn, err := net.DialTimeout("tcp", addr, startTimeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(startTimeout)); err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	var lines []string
	for _, command := range commands {
		if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
			return nil, err
		}
		for more := true; more; {
			line, err := r.ReadString('\n')
			if err != nil {
				return nil, errors.Join(fmt.Errorf("after %q", lines), err)
			}
			line = strings.TrimSpace(line)
			lines = append(lines, line)
			more = strings.HasPrefix(line, "STAT ") || strings.HasPrefix(line, "VALUE ")
		}
	}
	return lines, nil
}
