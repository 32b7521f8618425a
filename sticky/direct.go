package sticky

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"
)

// DirectOptions sets up a DirectTransport; nil is all defaults, which are those
// of Options.
type DirectOptions struct {
	// Dial connects to a node. If nil, it is net.Dialer's DialContext.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// DialTimeout is how long connecting to a node may take, with its TLS
	// handshake. If 0, it is 2 seconds; negative: as long as the request's
	// context allows.
	DialTimeout time.Duration

	// TLS is for nodes with an https URL. If nil, their certificates are checked
	// with the system's roots.
	TLS *tls.Config

	// HeaderTimeout is how long a node may take from the end of the request to
	// the end of its answer's header, and before that, to take some more of the
	// request. If 0, it is 30 seconds; negative: for ever.
	HeaderTimeout time.Duration

	// ContinueTimeout is how long a request with Expect: 100-continue waits for
	// the node's word before its body is sent all the same. If 0, it is 1 second;
	// negative: not at all.
	ContinueTimeout time.Duration

	// IdleTimeout is how long an unused connection to a node is kept. It should
	// be shorter than the node's own, or a POST may meet a connection that is
	// just being closed. If 0 or negative, it is 30 seconds.
	IdleTimeout time.Duration

	// MaxIdle is how many unused connections to one node are kept. If 0, it is
	// 256; negative: none.
	MaxIdle int

	// MaxHeaderBytes bounds the header of an answer. If 0 or negative, it is 256 KiB.
	MaxHeaderBytes int64
}

// DirectTransport is an http.RoundTripper for HTTP/1.1 in which a request's own
// goroutine writes the request and reads the response. http.Transport has two
// goroutines for every connection, and hands each request to one and takes each
// response from the other; without that a proxy spends about a fifth less CPU.
//
// What http.Transport promises holds, with these differences:
//
//   - A request with a body, or with a header of more than 16 KiB, gets one more
//     goroutine that writes it, since the node may answer before it has read all.
//   - An idle connection is looked at just before it is used again. If the node
//     has closed it, or has sent what nobody asked for, it is dropped, so that
//     neither becomes another request's failure or response.
//   - A connection that breaks before a byte of the response came is replaced
//     once, by a new one, if the connection had been used before and the request
//     is a GET, HEAD or OPTIONS, or has an Idempotency-Key, or was not sent at
//     all; and if its body, where it has one, can be had again from GetBody.
//   - If the node answers Expect: 100-continue with a final status, the body is
//     neither read nor sent (RFC 9110, section 10.1.1), and the connection ends.
//   - A status below 100 is a malformed response, and so are more than 128
//     informational ones.
//   - There is no HTTP/2, no proxy, no CONNECT, no compression that the request
//     did not ask for, and Request.Cancel, which is deprecated, is not heeded.
//
// The hooks of httptrace fire as they do for http.Transport, and an error is
// ErrNotSent if not one byte of the request went out.
type DirectTransport struct {
	opts DirectOptions
	idle idleConns
}

// NewDirectTransport returns a transport for the nodes of a balancer. A nil
// opts is as good as the zero value.
func NewDirectTransport(opts *DirectOptions) *DirectTransport {
	t := &DirectTransport{}
	if opts != nil {
		t.opts = *opts
	}
	o := &t.opts
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	o.DialTimeout = cmp.Or(o.DialTimeout, 2*time.Second)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 30*time.Second)
	o.ContinueTimeout = cmp.Or(o.ContinueTimeout, time.Second)
	o.IdleTimeout = cmp.Or(max(o.IdleTimeout, 0), 30*time.Second)
	o.MaxIdle = cmp.Or(o.MaxIdle, 256)
	o.MaxHeaderBytes = cmp.Or(max(o.MaxHeaderBytes, 0), 256<<10)
	if o.TLS == nil {
		o.TLS = &tls.Config{}
	} else {
		o.TLS = o.TLS.Clone()
	}
	o.TLS.NextProtos = []string{"http/1.1"}
	t.idle.max, t.idle.timeout = o.MaxIdle, o.IdleTimeout
	return t
}

// CloseIdleConnections closes the connections that are not in use. Those in use
// are closed when their response has been read.
func (t *DirectTransport) CloseIdleConnections() { t.idle.closeAll() }

// RoundTrip sends the request and returns the response when its header is
// there. It always closes the request's body, though perhaps after it has
// returned, and it does not change the request.
func (t *DirectTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	head, err := validate(req)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	ctx := req.Context()
	trace := httptrace.ContextClientTrace(ctx)
	out := req
	sent := false // by any attempt
	for again := false; ; again = true {
		c, err := t.connect(ctx, out, trace, again)
		if err != nil {
			closeBody(out)
			return nil, &directError{err: err, sent: sent}
		}
		x := directExchange{t: t, c: c, req: out, trace: trace}
		res, failure := x.do(ctx, head)
		if failure == nil {
			res.Request = req
			return res, nil
		}
		sent = sent || failure.sent
		failure.sent = sent
		if again || !c.reused || !failure.lost || !replayable(out, sent) || ctx.Err() != nil {
			return nil, failure
		}
		if hasBody(out) {
			body, err := out.GetBody()
			if err != nil {
				return nil, failure
			}
			out = out.WithContext(ctx) // a copy
			out.Body = body
		}
	}
}

// connect returns an idle connection that is good, or a new one.
func (t *DirectTransport) connect(ctx context.Context, req *http.Request, trace *httptrace.ClientTrace, fresh bool) (*directConn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	to := hostOf(req.URL)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(to.addr())
	}
	info := httptrace.GotConnInfo{}
	var c *directConn
	if !fresh {
		if c = t.idle.take(to); c != nil {
			info.Reused, info.WasIdle, info.IdleTime = true, true, time.Since(c.idleSince)
		}
	}
	if c == nil {
		var err error
		if c, err = t.dial(ctx, to, trace); err != nil {
			// The dialer takes over the context's deadline, and may be first.
			if end, ok := ctx.Deadline(); ok && ctx.Done() != nil && !time.Now().Before(end) {
				<-ctx.Done()
			}
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
	}
	c.reused = info.Reused
	if trace != nil && trace.GotConn != nil {
		info.Conn = c.conn
		trace.GotConn(info)
	}
	return c, nil
}

// directError is a request that failed on the way.
type directError struct {
	err  error
	sent bool // at least one byte of the request
	lost bool // the connection broke before anything came back
}

func (e *directError) Error() string { return "sticky: " + e.err.Error() }
func (e *directError) Unwrap() error { return e.err }

func (e *directError) Is(target error) bool {
	return target == ErrNotSent && !e.sent
}

// Timeout makes a directError a net.Error.
func (e *directError) Timeout() bool {
	var t net.Error
	return errors.As(e.err, &t) && t.Timeout()
}

// Temporary makes a directError a net.Error.
func (e *directError) Temporary() bool { return e.Timeout() }

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// replayable tells whether a request may be sent again after a connection broke.
func replayable(req *http.Request, sent bool) bool {
	if hasBody(req) && req.GetBody == nil {
		return false
	}
	if !sent {
		return true
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return req.Header.Get("Idempotency-Key") != ""
}

// validate refuses what http.Transport refuses, since Request.Write would drop
// or mend it in silence. It returns about how long the header is.
func validate(req *http.Request) (size int, err error) {
	switch {
	case req.URL == nil:
		return 0, errors.New("sticky: the request has no URL")
	case req.Header == nil:
		return 0, errors.New("sticky: the request has no Header")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return 0, fmt.Errorf("sticky: unsupported protocol scheme %q", req.URL.Scheme)
	case req.URL.Host == "":
		return 0, errors.New("sticky: no host in the request's URL")
	case !isASCII(req.URL.Host):
		return 0, fmt.Errorf("sticky: write the host %q in Punycode", req.URL.Host)
	case req.Method == http.MethodConnect:
		return 0, errors.New("sticky: CONNECT is not supported")
	case req.Method != "" && !isToken(req.Method):
		return 0, fmt.Errorf("sticky: invalid method %q", req.Method)
	}
	size = len(req.URL.RawQuery) + len(req.URL.Path)
	for _, h := range [...]http.Header{req.Header, req.Trailer} {
		for name, values := range h {
			if !isToken(name) {
				return 0, fmt.Errorf("sticky: invalid name of a header field %q", name)
			}
			for _, v := range values {
				if !isFieldValue(v) {
					return 0, fmt.Errorf("sticky: invalid value of the header field %q", name) // which may be secret
				}
				size += len(name) + len(v)
			}
		}
	}
	return size, nil
}

// isToken tells whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		case c > ' ' && c < 0x7f && strings.IndexByte("!#$%&'*+.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// isFieldValue tells whether s has no control characters but tabs.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
