package servers

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Balancer is a load balancer of another make that runs.
type Balancer struct {
	*Process
	Addr    string // where it listens
	conf    string // the file with the caller's part of its configuration
	socket  string // HAProxy's runtime socket
	version string // where nginx tells how often it was reloaded
	reloads int
}

// Nginx starts nginx. The text is what goes into its http section: upstreams,
// and a server that listens on addr.
func Nginx(t testing.TB, text func(addr string) string) *Balancer {
	t.Helper()
	program := Require(t, newest("/usr/sbin/nginx", "nginx"), "install the package nginx-light")
	return startBalancer(t, text, func(b *Balancer, dir string) []string {
		b.conf, b.version = filepath.Join(dir, "site.conf"), "127.0.0.1:"+FreePort(t)
		b.writeNginx(t)
		return []string{program, "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "nginx.conf")}
	})
}

// writeNginx writes what is around the caller's part: whatever nginx writes
// stays in one directory, and a server of its own tells the reloads.
func (b *Balancer) writeNginx(t testing.TB) {
	t.Helper()
	dir := filepath.Dir(b.conf)
	var text strings.Builder
	if os.Getuid() == 0 {
		text.WriteString("user root;\n") // the directory is this process's
	}
	fmt.Fprintf(&text, "daemon off;\nworker_processes 1;\npid %s/nginx.pid;\nerror_log stderr error;\nevents { worker_connections 4096; }\nhttp {\n\taccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&text, "\t%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	fmt.Fprintf(&text, "\tserver { listen %s; return 200 %d; }\n\tinclude %s;\n}\n", b.version, b.reloads, b.conf)
	write(t, filepath.Join(dir, "nginx.conf"), text.String())
}

// HAProxySocket is the path of the runtime socket in a configuration that
// HAProxy is given; it stands for one in a directory of the test's.
const HAProxySocket = "/run/haproxy/admin.sock"

// HAProxy starts HAProxy. The text is its whole configuration, whose runtime
// socket is HAProxySocket and whose frontend binds addr.
func HAProxy(t testing.TB, text func(addr string) string) *Balancer {
	t.Helper()
	program := Require(t, newest("/usr/sbin/haproxy", "haproxy"), "install the package haproxy")
	// A socket's path takes 107 bytes, and a test's directory may be longer.
	short, err := os.MkdirTemp("", "haproxy")
	must(t, "a directory for the socket", err)
	t.Cleanup(func() { os.RemoveAll(short) })
	socket := filepath.Join(short, "s")
	local := func(addr string) string { return strings.ReplaceAll(text(addr), HAProxySocket, socket) }
	return startBalancer(t, local, func(b *Balancer, dir string) []string {
		b.conf, b.socket = filepath.Join(dir, "haproxy.cfg"), socket
		return []string{program, "-db", "-f", b.conf}
	})
}

// Caddy starts Caddy. The text is the site of a Caddyfile, which listens on
// addr.
func Caddy(t testing.TB, text func(addr string) string) *Balancer {
	t.Helper()
	program := Require(t, "caddy", "install it with go install github.com/caddyserver/caddy/v2/cmd/caddy@latest")
	return startBalancer(t, text, func(b *Balancer, dir string) []string {
		b.conf = filepath.Join(dir, "site.caddy")
		main := filepath.Join(dir, "Caddyfile")
		write(t, main, fmt.Sprintf("{\n\tadmin unix/%s/admin.sock\n\tpersist_config off\n\tauto_https off\n\tstorage file_system %s\n}\nimport %s\n", dir, dir, b.conf))
		return []string{program, "run", "--adapter", "caddyfile", "--config", main}
	})
}

// startBalancer starts a balancer on a free port: on another one if somebody
// took it.
func startBalancer(t testing.TB, text func(addr string) string, prepare func(b *Balancer, dir string) []string) *Balancer {
	t.Helper()
	for range 5 {
		b := &Balancer{Addr: "127.0.0.1:" + FreePort(t)}
		dir := t.TempDir()
		args := prepare(b, dir)
		write(t, b.conf, text(b.Addr))
		b.Process = start(t, dir, args...)
		if waitFor(t, b.Process, filepath.Base(args[0])+" at "+b.Addr, b.dial) {
			return b
		}
		t.Logf("%s", b.out.tail(1024))
	}
	t.Fatal("the balancer does not start")
	return nil
}

func (b *Balancer) dial(ctx context.Context) error {
	addrs := map[string]string{"tcp": b.Addr}
	if b.socket != "" {
		addrs["unix"] = b.socket // which may be there later
	}
	for network, addr := range addrs {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		conn.Close()
	}
	return nil
}

// Reload gives nginx a new configuration, and returns when it is in force; old
// workers answer what they have accepted.
func (b *Balancer) Reload(t testing.TB, text func(addr string) string) {
	t.Helper()
	b.reloads++
	write(t, b.conf, text(b.Addr))
	b.writeNginx(t)
	must(t, "reload", b.cmd.Process.Signal(syscall.SIGHUP))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	Wait(t, "nginx's new workers", startTimeout, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.version, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		n, err := io.ReadAll(res.Body)
		if err == nil && string(n) != strconv.Itoa(b.reloads) {
			err = fmt.Errorf("%s of %d reloads", n, b.reloads)
		}
		return err
	})
}

// Command sends one command to HAProxy's runtime socket and returns the answer.
func (b *Balancer) Command(t testing.TB, command string) string {
	t.Helper()
	conn, err := net.Dial("unix", b.socket)
	must(t, "HAProxy's runtime socket", err)
	defer conn.Close()
	_, err = fmt.Fprintln(conn, command)
	must(t, command, err)
	answer, err := io.ReadAll(bufio.NewReader(conn))
	must(t, command, err)
	return strings.TrimSpace(string(answer))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, path, os.WriteFile(path, []byte(text), 0o600))
}
