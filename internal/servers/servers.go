// Package servers starts the servers that the tests run against, on loopback,
// in a directory of their own, and stops them when the test ends.
//
// A server that is not installed skips the test, unless the environment
// variable SESSION_SERVERS is "required": then it fails, so that a CI run
// cannot be green because it tested nothing. If it is "none", no server is
// started.
package servers

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout is how long a server may take to answer.
const startTimeout = 20 * time.Second

// Require returns the path of a program that a server needs, or skips the
// test. With SESSION_SERVERS=none it skips though the program is there.
func Require(t testing.TB, program, hint string) string {
	t.Helper()
	want := os.Getenv("SESSION_SERVERS")
	if want == "none" {
		t.Skipf("SESSION_SERVERS=none: %s is not started", program)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		Lacking(t, program+" is not installed; "+hint)
	}
	return path
}

// Lacking skips the test for what this machine lacks; with
// SESSION_SERVERS=required it fails.
func Lacking(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("SESSION_SERVERS") == "required" {
		t.Fatalf("SESSION_SERVERS=required, but %s", what)
	}
	t.Skip(what)
}

// Process is a server that runs.
type Process struct {
	args []string
	dir  string
	as   *syscall.Credential // nil: this process's user
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	out  *syncBuffer
}

// Start runs a program that is none of the servers here: one of the test's own.
func Start(t testing.TB, dir string, args ...string) *Process {
	t.Helper()
	return start(t, dir, args...)
}

// start runs args in dir until Kill, or the end of the test, or of this
// process.
func start(t testing.TB, dir string, args ...string) *Process {
	t.Helper()
	return startAs(t, nil, dir, args...)
}

// startAs is start as another user: some servers refuse to run as root.
func startAs(t testing.TB, as *syscall.Credential, dir string, args ...string) *Process {
	t.Helper()
	p := &Process{args: args, dir: dir, as: as, out: &syncBuffer{}}
	p.run(t)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%v:\n%s", args, p.out.tail(1024))
		}
	})
	return p
}

func (p *Process) run(t testing.TB) {
	t.Helper()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.SysProcAttr = sysProcAttr()
	cmd.SysProcAttr.Credential = p.as
	if err := spawn(cmd); err != nil {
		t.Fatalf("start %s: %v", p.args[0], err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // it is killed, or tells why in its output
		close(done)
	}(p.done)
}

// Kill ends the process at once, as kill -9 does, and those it forked.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	<-p.done
}

// Again runs the program again after it has ended.
func (p *Process) Again(t testing.TB) {
	t.Helper()
	p.run(t)
}

// Stop asks the process to end, with SIGTERM, and waits until it has; one that
// takes longer than limit fails the test.
func (p *Process) Stop(t testing.TB, limit time.Duration) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Errorf("%s has not ended %v after SIGTERM", p.args[0], limit)
		p.Kill()
	}
}

// Pause stops the process where it stands: connections stay open, and nothing
// answers. A thread that runs on another CPU may still answer after the signal
// is sent, therefore Pause returns only when all have stopped, or the process
// has ended.
func (p *Process) Pause() {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP) // it may have ended
	for !stopped(p.cmd.Process.Pid) {
		select {
		case <-p.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// Resume lets a paused process go on.
func (p *Process) Resume() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }

// spawner starts processes from one thread that never ends: a process with a
// parent death signal is killed when the thread that started it ends
// (go.dev/issue/27505).
var spawner = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func spawn(cmd *exec.Cmd) error {
	err := make(chan error)
	spawner() <- func() { err <- cmd.Start() }
	return <-err
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. It lies
// below those that the system gives to connections, which could take it before
// the server does.
func FreePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(15000 + rand.IntN(15000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// Wait polls until ready is nil, and ends the test if that takes too long.
func Wait(t testing.TB, what string, limit time.Duration, ready func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %v: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// waitFor waits until a server is ready, and tells whether it runs.
func waitFor(t testing.TB, p *Process, what string, ready func(ctx context.Context) error) bool {
	t.Helper()
	runs := true
	Wait(t, what, startTimeout, func(ctx context.Context) error {
		select {
		case <-p.done:
			runs = false
			return nil
		default:
			return ready(ctx)
		}
	})
	return runs
}

// syncBuffer keeps what a process writes.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) tail(n int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := bytes.Clone(b.b.Bytes())
	return text[max(0, len(text)-n):]
}
