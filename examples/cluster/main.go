// Cluster is the quickstart's tea shop on three nodes that replicate their
// sessions among themselves: there is no server to run, and no node that must
// not die. It starts the three processes, a balancer in front of them that
// sends every request to another one, and a page to play with:
//
//	go run ./examples/cluster
//
// Open http://localhost:8080/cluster, click, and meanwhile stop, kill, pause and
// restart the nodes. The page counts what was acknowledged and compares it with
// what the sessions hold.
//
// Each process is a voter of the cluster, see natsstore. In a system of yours
// each would be a machine, with a secret and TLS between them; node.go has all
// that a node needs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/distsession/session/natsstore"
)

// config is what the flags say.
type config struct {
	addr        string
	nodes       int
	dir         string
	consistency natsstore.Consistency
	node        nodeConfig // if it has a name, this process is that node
}

func parse(args []string, stderr io.Writer) (c config, err error) {
	var consistency, voters string
	f := flag.NewFlagSet("cluster", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&c.addr, "addr", "localhost:8080", "`address` of the balancer and the page; loopback, for whoever reaches it can stop the nodes")
	f.IntVar(&c.nodes, "nodes", 3, "how many `nodes`: 3 or 5")
	f.StringVar(&c.dir, "dir", "", "`directory` for the nodes' disks; if empty, a temporary one")
	f.StringVar(&consistency, "consistency", "local", "where loads come from: `local`, the node's own copy, or strong, the leader")
	f.StringVar(&c.node.name, "node", "", "used by the program itself: run this node")
	f.StringVar(&c.node.http, "http", "", "used by the program itself")
	f.StringVar(&c.node.listen, "listen", "", "used by the program itself")
	f.StringVar(&voters, "voters", "", "used by the program itself")
	if err := f.Parse(args); err != nil {
		return config{}, err
	}
	c.node.dir, c.node.voters = c.dir, strings.Split(voters, ",")
	switch {
	case f.NArg() > 0:
		return config{}, fmt.Errorf("%q is not a flag; try -h", f.Arg(0))
	case c.nodes != 3 && c.nodes != 5:
		return config{}, fmt.Errorf("-nodes is 3 or 5: of 2 or 4 no more may fail than of 1 or 3")
	case consistency == "strong":
		c.consistency = natsstore.Strong
	case consistency == "local":
		c.consistency = natsstore.Local
	default:
		return config{}, fmt.Errorf("-consistency is local or strong, not %q", consistency)
	}
	c.node.consistency = c.consistency
	return c, nil
}

func main() { os.Exit(run()) }

func run() int {
	c, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if c.node.name != "" {
		err = runNode(ctx, c.node)
	} else {
		err = runCluster(ctx, c, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return 0
}

// runCluster runs the nodes and what stands in front until ctx ends.
func runCluster(ctx context.Context, c config, stdout io.Writer) (err error) {
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		return fmt.Errorf("%w; choose another one with -addr", err)
	}
	defer l.Close()
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() {
		return fmt.Errorf("%s is not loopback: whoever reaches the page can stop the nodes", c.addr)
	}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "session-cluster-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(c.dir)) }()
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	nodes, err := newNodes(c)
	if err != nil {
		return err
	}
	defer nodes.end()
	for _, n := range nodes {
		if err := n.start(); err != nil {
			return fmt.Errorf("start node %s: %w", n.name, err)
		}
	}
	front, err := newFront(nodes)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	fmt.Fprintf(stdout, "The cluster is at http://%s/cluster, the shop alone at http://%[1]s/\n", net.JoinHostPort("localhost", port))
	return front.serve(ctx, l)
}
