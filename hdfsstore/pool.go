package hdfsstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// A pool holds clients, each of which makes one call at a time over one
// connection to a namenode. A client whose connection broke, or that may have an
// answer under way which nobody waits for any more, is closed and replaced.
//
// The clients' names have to differ, for the namenode remembers by them which
// calls it has answered. They are drawn from math/rand, which is seeded well
// unless GODEBUG has randseednop=0.
type pool struct {
	options hdfs.ClientOptions // without connections
	limit   time.Duration      // of a Read or Write
	slots   chan struct{}      // as many as there may be clients
	work    sync.WaitGroup     // connects

	mu     sync.Mutex
	idle   []*client // used last at the end
	left   map[string]time.Time
	closed bool
}

type client struct {
	*hdfs.Client
	link *link
	used time.Time
}

// idleLimit is how long a client may be idle that others can stand in for: each
// renews its leases once a second, though it has none.
const idleLimit = time.Minute

var errClosed = errors.New("the store is closed")

type (
	// A wireError is a call whose answer was lost: what became of it is not
	// known.
	wireError struct{ error }

	// A connectError is a call that was not made: no namenode can be reached.
	connectError struct{ error }
)

func (e *wireError) Unwrap() error    { return e.error }
func (e *connectError) Unwrap() error { return e.error }

func newPool(options hdfs.ClientOptions, size int, limit time.Duration) *pool {
	return &pool{options: options, limit: limit, slots: make(chan struct{}, size), left: map[string]time.Time{}}
}

// do lets f make calls with a client and returns what f returned, mapped. A
// wireError if the answer is lost.
func (p *pool) do(ctx context.Context, f func(*hdfs.Client) error) error {
	c, err := p.acquire(ctx)
	if err != nil {
		return over(ctx, &connectError{err})
	}
	end := c.link.begin(ctx)
	err = mapped(f(c.Client))
	end()
	broken := c.link.failure()
	p.release(c)
	if err != nil && broken != nil {
		err = &wireError{err}
	}
	return over(ctx, err)
}

// repeat is do for what may be done twice: it is tried again, with other
// clients and on each namenode, when the answer was lost.
func (p *pool) repeat(ctx context.Context, f func(*hdfs.Client) error) error {
	for try := 0; ; try++ {
		err := p.do(ctx, f)
		var lost *wireError
		if !errors.As(err, &lost) || ctx.Err() != nil || try == len(p.options.Addresses) {
			return err
		}
	}
}

// over adds the context's error to one that came of it. The client's own
// errors are text only.
func over(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	ended := ctx.Err()
	if d, ok := ctx.Deadline(); ok && ended == nil && !time.Now().Before(d) {
		ended = context.DeadlineExceeded // the connection's clock was first
	}
	if ended == nil || errors.Is(err, ended) {
		return err
	}
	return fmt.Errorf("%w: %w", ended, err)
}

// acquire returns a client that nobody else uses.
func (p *pool) acquire(ctx context.Context) (*client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for one of %d clients", ctx.Err(), cap(p.slots))
	}
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			<-p.slots
			return nil, errClosed
		}
		n := len(p.idle) - 1
		if n < 0 {
			break
		}
		c := p.idle[n]
		p.idle = p.idle[:n]
		p.mu.Unlock()
		if c.link.failure() == nil {
			return c, nil
		}
		c.discard()
	}
	// Until the connection stands this takes a goroutine, for the exchange with
	// a Kerberos KDC knows no context. The goroutine has the slot.
	made := make(chan *client)
	failed := make(chan error, 1)
	p.work.Go(func() {
		c, err := p.connect(ctx)
		if err == nil {
			select {
			case made <- c:
				return
			case <-ctx.Done():
				c.discard()
			}
		}
		<-p.slots
		failed <- err
	})
	p.mu.Unlock()
	select {
	case c := <-made:
		return c, nil
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: connecting to the namenode", ctx.Err())
	}
}

// connect makes a client. It does not block longer than ctx but for Kerberos.
func (p *pool) connect(ctx context.Context) (*client, error) {
	options := p.options
	options.Addresses = p.addresses()
	l := &link{limit: p.limit, split: len(options.Addresses) > 1, left: p.leave}
	options.NamenodeDialFunc, options.DatanodeDialFunc = l.dialNamenode, l.dialDatanode
	defer l.begin(ctx)()
	c, err := hdfs.NewClient(options)
	if err != nil {
		l.close()
		return nil, mapped(err)
	}
	return &client{Client: c, link: l}, nil
}

// addresses are the namenodes, those last that were of no use a moment ago.
func (p *pool) addresses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := slices.Clone(p.options.Addresses)
	slices.SortStableFunc(addrs, func(a, b string) int { return p.left[a].Compare(p.left[b]) })
	return addrs
}

// leave makes the clients to come try this namenode last.
func (p *pool) leave(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left[addr] = time.Now()
}

// release gives a client back.
func (p *pool) release(c *client) {
	c.used = time.Now()
	over := c
	p.mu.Lock()
	if !p.closed && c.link.failure() == nil {
		over = nil
		p.idle = append(p.idle, c)
		if oldest := p.idle[0]; c.used.Sub(oldest.used) > idleLimit {
			over, p.idle = oldest, slices.Delete(p.idle, 0, 1)
		}
	}
	p.mu.Unlock()
	if over != nil {
		over.discard()
	}
	<-p.slots
}

// discard closes a client, whatever it is doing.
func (c *client) discard() {
	c.link.close()
	_ = c.Client.Close() // closed already
}

// close closes the clients: those that are in use when their call ends.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.discard()
	}
	p.work.Wait()
}
