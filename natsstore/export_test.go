package natsstore

import (
	"context"
	"time"

	"github.com/distsession/session"
)

// OpenHeld is Open, and the feed waits before each message until hold returns.
func (n *Node) OpenHeld(opts *Options, hold func(context.Context)) (*Store, error) {
	return n.open(opts, func(s *Store) { s.hold = hold })
}

// Leads tells whether the node leads the bucket.
func (n *Node) Leads(bucket string) bool {
	return n.server.JetStreamIsStreamLeader("$G", "KV_"+bucket)
}

// Routes is how many connections to other nodes there are.
func (n *Node) Routes() int { return n.server.NumRoutes() }

// Dir is where the node keeps its files.
func (n *Node) Dir() string { return n.opts.Dir }

// Copy is a node's copy, without a node.
type Copy struct{ c *localCopy }

func NewCopy() *Copy { return &Copy{newCopy()} }

func (c *Copy) Feed(id string, rec *session.Record, seq uint64) { c.c.feed(id, rec, seq) }
func (c *Copy) See(id string, rec *session.Record, seq uint64)  { c.c.see(id, rec, seq) }
func (c *Copy) Get(id string) *session.Record                   { rec, _ := c.c.get(id); return rec }
func (c *Copy) Sweep(now time.Time)                             { c.c.sweep(now) }
func (c *Copy) Len() int                                        { return len(c.c.entries) }

// Asks are questions to a leader that is a function.
type Asks struct{ a *asks }

func NewAsks() *Asks { return &Asks{newAsks(time.Minute)} }

func (a *Asks) Do(ctx context.Context, id string, f func(context.Context, string) (*session.Record, error)) (*session.Record, error) {
	return a.a.do(ctx, id, f)
}

const MaxAsks = maxAsks

// Pulses are beats that were sent.
type Pulses struct{ p *pulse }

func NewPulses() *Pulses { return &Pulses{&pulse{sent: map[uint64]beat{}}} }

func (p *Pulses) Sent(n uint64, at time.Time)                { p.p.sent[n] = beat{at, p.p.back} }
func (p *Pulses) Came(data string, pending uint64) time.Time { return p.p.came([]byte(data), pending) }

// PublishRaw writes whatever one likes into the bucket.
func (s *Store) PublishRaw(subject string, data []byte) error {
	_, err := s.link.publish(context.Background(), s.prefix+subject, data, anyRevision, 0)
	return err
}

// Since is how long ago t was.
var Since = since

// RoutePassword is what the servers sign in to one another with.
func RoutePassword(secret []byte) string { return routePassword(secret) }
