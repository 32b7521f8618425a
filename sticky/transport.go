package sticky

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// newTransport is net/http's, tuned: what the defaults cost was measured. Two
// idle connections a host make nearly every request dial; compression and the
// environment's proxy are not for here. HTTP/1.1 only: one request a connection
// is what makes "nothing was sent" a fact.
func (p *Proxy) newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, p.o.DialTimeout)
			defer cancel()
			c, err := p.o.Dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &countedConn{Conn: c, patience: max(p.o.HeaderTimeout, 0)}, nil
		},
		TLSClientConfig:        p.o.TLS.Clone(),
		TLSHandshakeTimeout:    p.o.DialTimeout,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        p.o.IdleTimeout,
		ResponseHeaderTimeout:  max(p.o.HeaderTimeout, 0),
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        4 << 10,
		ReadBufferSize:         4 << 10,
		DisableCompression:     true,
		Protocols:              http1(),
	}
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// countedConn knows how much was written to it. It does not wait for ever for a
// node that takes nothing any more: net/http counts the HeaderTimeout only from
// the end of the request.
type countedConn struct {
	net.Conn
	written  atomic.Int64
	patience time.Duration // 0: none
}

func (c *countedConn) Write(b []byte) (int, error) {
	if c.patience > 0 {
		c.SetWriteDeadline(time.Now().Add(c.patience))
	}
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.written.Add(int64(n))
	}
	return n, err
}

// CloseWrite ends one direction of an upgraded connection.
func (c *countedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// counted finds the countedConn under TLS.
func counted(c net.Conn) *countedConn {
	for {
		switch v := c.(type) {
		case *countedConn:
			return v
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil
		}
	}
}

// buffers are for copying bodies. 32 KiB a response was half of the proxy's
// work.
type buffers struct{ pool sync.Pool }

const bufferSize = 16 << 10

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return v[:]
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// The kinds of a dial's failure.

// refused: the node, or the way to it, is not there.
func refused(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN} {
		if errors.Is(err, e) {
			return true
		}
	}
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// ours: this process ran out of something, which is not the node's fault.
func ours(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
