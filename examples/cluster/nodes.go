package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// nodes are the processes, in order.
type nodes []*node

// node is one process that comes and goes.
type node struct {
	name string
	http string
	args []string
	dir  string

	mu    sync.Mutex
	cmd   *exec.Cmd // nil: there is none
	stdin io.Closer // while it is open, the process runs
	ended chan struct{}
	state state
}

// state is what was done to a process.
type state string

const (
	running  state = "running"
	stopping state = "stopping"
	paused   state = "paused"
	stopped  state = "stopped"
	killed   state = "killed"
	failed   state = "failed" // ended by itself; the log tells why
)

func newNodes(c config) (nodes, error) {
	http, err := freeAddrs(c.nodes)
	if err != nil {
		return nil, err
	}
	voters, err := freeAddrs(c.nodes)
	if err != nil {
		return nil, err
	}
	var ns nodes
	for i := range c.nodes {
		name := string(rune('a' + i))
		dir := filepath.Join(c.dir, name)
		ns = append(ns, &node{name: name, http: http[i], dir: dir, state: stopped, args: []string{
			"-node", name, "-http", http[i], "-listen", voters[i], "-voters", strings.Join(voters, ","), "-dir", dir,
			"-consistency", c.consistency.String(),
		}})
	}
	return ns, nil
}

// freeAddrs returns loopback addresses that nobody listens at now.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only when all are found, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (ns nodes) byName(name string) *node {
	for _, n := range ns {
		if n.name == name {
			return n
		}
	}
	return nil
}

// end stops all processes.
func (ns nodes) end() {
	var wg sync.WaitGroup
	for _, n := range ns {
		wg.Go(n.end)
	}
	wg.Wait()
}

// errState says that an action does not fit what the process is doing.
var errState = errors.New("that does not fit the node's state")

// start runs the program again, as this node.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run()
}

// run is start; mu is held.
func (n *node) run() error {
	if n.cmd != nil {
		return errState
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, n.args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	apart(cmd)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.stdin, n.ended, n.state = cmd, stdin, make(chan struct{}), running
	go n.wait(cmd, n.ended)
	return nil
}

func (n *node) wait(cmd *exec.Cmd, ended chan struct{}) {
	err := cmd.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.state == killed:
	case err == nil && n.state == stopping:
		n.state = stopped
	default:
		n.state = failed
	}
	n.cmd = nil
	close(ended)
}

// startEmpty starts the node with a disk that has nothing.
func (n *node) startEmpty() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return errState
	}
	if err := os.RemoveAll(n.dir); err != nil {
		return err
	}
	return n.run()
}

// stop asks the process to end, as a rolling restart does.
func (n *node) stop() error { return n.signal(terminate, stopping, running) }

// kill ends it at once.
func (n *node) kill() error { return n.signal((*os.Process).Kill, killed, running, paused, stopping) }

// pause freezes it, as a machine that swaps or a long garbage collection does.
func (n *node) pause() error { return n.signal(freeze, paused, running) }

// resume lets it go on, with all that it believed before.
func (n *node) resume() error { return n.signal(thaw, running, paused) }

// signal does send and moves on to the state to, from one of those.
func (n *node) signal(send func(*os.Process) error, to state, from ...state) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range from {
		if n.cmd == nil || n.state != s {
			continue
		}
		if err := send(n.cmd.Process); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
		n.state = to
		return nil
	}
	return errState
}

// patience is how long a process may take to end when it is asked to.
const patience = 15 * time.Second

func (n *node) end() {
	n.resume() // a frozen one hears nothing
	n.mu.Lock()
	ended, up := n.ended, n.cmd != nil
	if up {
		n.state = stopping
		n.stdin.Close()
	}
	n.mu.Unlock()
	if !up {
		return
	}
	select {
	case <-ended:
	case <-time.After(patience):
		n.kill()
		<-ended
	}
}

// at tells the state of the process, and its ID while there is one.
func (n *node) at() (state, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return n.state, 0
	}
	return n.state, n.cmd.Process.Pid
}
