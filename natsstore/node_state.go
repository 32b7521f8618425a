package natsstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// nodeState is whether a node has caught up, as it was when it was last looked
// at. The server tells only under locks that it also holds while it writes and
// catches up, for seconds on a busy disk: nobody who asks must wait for them.
type nodeState struct {
	node   *Node
	stream string
	good   time.Time                 // when it had caught up last; of keep
	seen   atomic.Pointer[seenState] // nil: not yet
}

type seenState struct {
	at  time.Time // when the look began
	err error
}

const (
	stateLook = 50 * time.Millisecond
	stateLife = 2 * time.Second // that a look is believed, and a node may be behind
)

// newNodeState returns nil for a node that has nothing to catch up with.
func newNodeState(n *Node, stream string) *nodeState {
	if n.opts.alone() || n.opts.Role == Cacher {
		return nil
	}
	return &nodeState{node: n, stream: stream}
}

// keep looks until ctx ends.
func (st *nodeState) keep(ctx context.Context) {
	tick := time.NewTicker(stateLook)
	defer tick.Stop()
	for {
		at := time.Now()
		st.seen.Store(&seenState{at, st.judge(at, st.look())})
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// errBehind is a node that does not have every change of the sessions.
var errBehind = errors.New("has not caught up with the sessions")

// judge lets a node that had caught up be behind for a while: under load there is
// always a change that it has heard of and not applied yet, and a balancer that
// asked at such a moment would take out one node after the other.
func (st *nodeState) judge(at time.Time, err error) error {
	switch {
	case err == nil:
		st.good = at
	case errors.Is(err, errBehind) && since(st.good) < stateLife:
		return nil
	}
	return err
}

// leaderless returns a Raft group in which this node knows no leader: the
// cluster's own, or one of a stream that it holds. "" if there is none.
func (n *Node) leaderless() string {
	groups := n.server.Raftz(&server.RaftzOptions{})
	if groups == nil {
		return ""
	}
	for _, account := range *groups {
		for name, g := range account {
			if g.Leader == "" && (name == metaGroup || strings.HasPrefix(name, streamGroup)) {
				return name
			}
		}
	}
	return ""
}

// How nats-server names the groups (defaultMetaGroupName, groupNameForStream in
// jetstream_cluster.go).
const (
	metaGroup   = "_meta_"
	streamGroup = "S-"
)

func (st *nodeState) look() error {
	n := st.node
	switch {
	case !n.server.JetStreamIsCurrent():
		return fmt.Errorf("node %s has not caught up with the cluster's own state", n.opts.Name)
	case !n.server.JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, st.stream):
		return fmt.Errorf("node %s %w", n.opts.Name, errBehind)
	}
	// While it knows no leader the server compares a node only with what the node
	// itself has heard of (isCurrent in nats-server's raft.go).
	if group := n.leaderless(); group != "" {
		return fmt.Errorf("node %s knows no leader of %s yet", n.opts.Name, group)
	}
	return nil
}

// current is nil if the node has caught up, or the reason why it is not known to.
func (st *nodeState) current() error {
	seen := st.seen.Load()
	switch {
	case seen == nil:
		return errors.New("it is not known yet whether the node has caught up")
	case since(seen.at) > stateLife:
		return errors.New("the node is too busy to tell whether it has caught up")
	}
	return seen.err
}
