package natsstore

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NodeOptions configure a Node.
type NodeOptions struct {
	// Name tells the nodes apart, in status, logs and elections. It must be
	// different on every node and stay the same over restarts. If "", it is
	// "node" where Voters names no other node, and otherwise required.
	Name string

	// Listen is the host:port on which the other nodes reach this one. A voter
	// that is alone has none.
	Listen string

	// Advertise is the host:port under which they reach it, if that is not
	// Listen: Listen may be 0.0.0.0:6222.
	Advertise string

	// Voters are the addresses of all voters, this node's own among them if it
	// is one: none or 1 for a node that is alone (development), 3 or 5 for a
	// cluster. All nodes are given the same ones. They hold the sessions, and a
	// change is acknowledged when a majority has it.
	Voters []string

	// Role is what this node does in the cluster; the zero value is Voter.
	Role Role

	// Dir is the directory in which a voter keeps what it must remember over a
	// restart. It is required unless Durability is Memory; it belongs to one
	// node alone.
	Dir string

	// Durability says what an acknowledged change survives. All voters have the
	// same.
	Durability Durability

	// Secret admits a node to the cluster: at least 32 bytes, the same on all
	// nodes, such as openssl rand -base64 32 prints. It is required unless every
	// address is loopback.
	Secret []byte

	// TLS encrypts what passes between the nodes, and is required unless every
	// address is loopback. It needs the node's Certificates, good for both ends
	// of a connection, and RootCAs: a node whose certificate is not signed by
	// one of them is not let in.
	TLS *tls.Config

	// ClientListen is a host:port on which other programs reach the bucket with
	// nats://; see Credentials. If "", nobody does: this process needs none. It
	// takes Secret, and TLS unless it is loopback. A program that connects needs
	// no certificate.
	ClientListen string

	// Logger gets what the server has to say; nil is slog.Default().
	Logger *slog.Logger
}

// Role is what a node does in the cluster.
type Role int

const (
	// Voter holds the sessions and takes part in elections.
	Voter Role = iota

	// Cacher only joins: it reads and writes through the voters, and with Local
	// keeps a copy. It may come and go, and there may be any number.
	Cacher
)

func (r Role) String() string {
	if r == Cacher {
		return "cacher"
	}
	return "voter"
}

// Durability says what an acknowledged change survives. In a cluster any
// minority of the voters may be lost at any of them.
type Durability int

const (
	// File survives that all nodes end. The system writes to the disk when it
	// likes and is asked to every ten seconds: when a majority loses its power
	// at once, the last ten seconds' changes may be lost, sign-outs too.
	File Durability = iota

	// FileSync survives that all nodes lose their power at once: every change is
	// on a majority's disks before it is acknowledged.
	FileSync

	// Memory survives as long as a majority of the voters runs. When all have
	// ended every session has.
	Memory
)

func (d Durability) String() string {
	switch d {
	case FileSync:
		return "file-sync"
	case Memory:
		return "memory"
	}
	return "file"
}

// Node is a member of the cluster that runs in this process.
type Node struct {
	opts   NodeOptions
	server *server.Server
	log    *slog.Logger
	temp   string // a directory of our own

	password string // of this process, for its own server

	mu     sync.Mutex
	stores map[*Store]bool
	close  sync.Once
}

// StartNode starts a node; opts may be nil. It does not wait for the others:
// Store.Ready tells when the node can serve. It installs no signal handlers.
// ErrConfig if the options cannot work.
func StartNode(opts *NodeOptions) (*Node, error) {
	if opts == nil {
		opts = &NodeOptions{}
	}
	n := &Node{opts: *opts, log: opts.Logger, stores: map[*Store]bool{}}
	if n.log == nil {
		n.log = slog.Default()
	}
	if err := n.opts.check(); err != nil {
		return nil, err
	}
	if n.opts.Dir == "" && n.opts.Role == Voter {
		dir, err := os.MkdirTemp("", "session-nats-")
		if err != nil {
			return nil, fmt.Errorf("session: nats: start: %w", err)
		}
		n.temp, n.opts.Dir = dir, dir
	}
	if err := n.start(); err != nil {
		n.removeTemp()
		return nil, err
	}
	return n, nil
}

// startLimit is how long the server may take to start, which needs no network.
const startLimit = 30 * time.Second

func (n *Node) start() error {
	n.password = rand.Text()
	s, err := server.NewServer(n.opts.server(n.password))
	if err != nil {
		return configError("the node's server refuses its options; mend what it names in NodeOptions: %w", err)
	}
	n.server = s
	log := newServerLog(n.log, n.opts.Name, routePassword(n.opts.Secret))
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if err := started(s, log); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return fmt.Errorf("session: nats: start: node %s: %w", n.opts.Name, err)
	}
	return nil
}

// started waits until the server runs, or tells why it cannot.
func started(s *server.Server, log *serverLog) error {
	for begin := time.Now(); ; {
		ready := s.ReadyForConnections(100 * time.Millisecond)
		select {
		case reason := <-log.fatal:
			return errors.New(reason)
		default:
		}
		switch {
		case ready:
			return nil
		case time.Since(begin) > startLimit:
			return fmt.Errorf("the server has not started after %v", startLimit)
		}
	}
}

// Name is the node's name.
func (n *Node) Name() string { return n.opts.Name }

// Open returns a store on this node; opts may be nil. It waits neither for the
// other nodes nor for the store's first copy: Store.Ready does. Close it before
// the node, or with it.
func (n *Node) Open(opts *Options) (*Store, error) { return n.open(opts, nil) }

// open calls before, if it is not nil, before the store starts.
func (n *Node) open(opts *Options, before func(*Store)) (*Store, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	switch {
	case o.Replicas != 0:
		return nil, configError("Replicas is for servers that run by themselves; leave it out: the voters of a node are its replicas")
	case o.Memory:
		return nil, configError("Memory is for servers that run by themselves; leave it out, and choose the node's Durability")
	}
	o.Replicas = max(1, len(n.opts.Voters))
	o.memory = n.opts.Durability == Memory
	nc, err := nats.Connect("", append(clientOptions(n.log), nats.InProcessServer(n.server),
		nats.Name("session"), nats.UserInfo(inProcessUser, n.password))...)
	if err != nil {
		return nil, fmt.Errorf("session: nats: open: %w", err)
	}
	s, err := newStore(nc, &o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	s.node, s.own, s.log = n, true, n.log
	s.lease = newLease(n, s.link.stream, s.pulse.majority)
	s.state = newNodeState(n, s.link.stream)
	n.mu.Lock()
	n.stores[s] = true
	n.mu.Unlock()
	if before != nil {
		before(s)
	}
	s.start()
	return s, nil
}

// Close stops the node at once, with the stores that Open made. Shutdown does
// it with care for the others.
func (n *Node) Close() error {
	n.close.Do(func() {
		n.mu.Lock()
		stores := n.stores
		n.stores = map[*Store]bool{}
		n.mu.Unlock()
		for s := range stores {
			s.end()
		}
		n.server.Shutdown()
		n.server.WaitForShutdown()
		n.removeTemp()
	})
	return nil
}

func (n *Node) removeTemp() {
	if n.temp != "" {
		os.RemoveAll(n.temp)
	}
}

func (n *Node) forget(s *Store) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.stores, s)
}

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: nats: "+format, append([]any{session.ErrConfig}, args...)...)
}

// background is for what no caller waits for.
func background(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}
