package natsstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Shutdown stops the node with care for the others: it waits until they have a
// majority that has caught up without it, hands over what it leads, and closes.
// If ctx ends before that is so it returns why and the node goes on: Close stops
// it all the same. A node that is alone, or a cacher, has nothing to wait for.
//
// First let the HTTP server finish its requests: Shutdown closes the stores.
func (n *Node) Shutdown(ctx context.Context) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := n.dispensable(ctx)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("session: nats: shutdown: %w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
	n.handOver(ctx)
	return n.Close()
}

// buckets returns the links of the stores that are open.
func (n *Node) buckets() map[string]*link {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[string]*link{}
	for s := range n.stores {
		all[s.link.stream] = s.link
	}
	return all
}

// dispensable is nil if the others have a majority without this node.
func (n *Node) dispensable(ctx context.Context) error {
	if n.opts.alone() || n.opts.Role == Cacher {
		return nil
	}
	for stream, l := range n.buckets() {
		if err := n.dispensableFor(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", stream, err)
		}
	}
	return nil
}

func (n *Node) dispensableFor(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	info, err := l.info(ctx, "", 0)
	switch {
	case err != nil:
		return err
	case info.Cluster == nil || info.Cluster.Leader == "":
		return errors.New("the voters have no leader")
	}
	others := 0
	if info.Cluster.Leader != n.opts.Name {
		others++
	}
	for _, r := range info.Cluster.Replicas {
		if r.Name != n.opts.Name && r.Current && !r.Offline && r.Active < routePing {
			others++
		}
	}
	if need := len(n.opts.Voters)/2 + 1; others < need {
		return fmt.Errorf("%d of the other voters have caught up, and without this node it takes %d", others, need)
	}
	return nil
}

// handOver makes others lead what this node leads, as far as ctx allows. What is
// left the server hands over as it stops.
func (n *Node) handOver(ctx context.Context) {
	for stream := range n.buckets() {
		for n.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) && ctx.Err() == nil {
			// Its error is that there is nobody to step down from, or that it is
			// under way.
			_ = n.server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, stream)
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}
