package sticky

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// probe reads from a connection what is there, without waiting for more. While
// it is looking, so does whoever reads through it, such as TLS.
type probe struct {
	net.Conn
	looking bool

	raw  syscall.RawConn       // nil if it has none
	read func(fd uintptr) bool // made once, not for each look
	buf  []byte                // the argument and the results of read
	n    int
	err  error
}

// errNothing is all that a look at a good idle connection finds. TLS keeps an
// error that is not temporary for ever.
var errNothing error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "there is nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

func newProbe(c net.Conn) *probe {
	p := &probe{Conn: c}
	s, ok := c.(syscall.Conn)
	if !ok || !canReadNow {
		return p
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return p
	}
	p.raw = raw
	p.read = func(fd uintptr) bool {
		p.n, p.err = readNow(fd, p.buf)
		return true
	}
	return p
}

func (p *probe) Read(b []byte) (int, error) {
	if p.looking {
		return p.look(b)
	}
	return p.Conn.Read(b)
}

// look reads, and returns errNothing instead of waiting.
func (p *probe) look(b []byte) (int, error) {
	if p.raw == nil {
		return p.glance(b)
	}
	p.buf = b
	err := p.raw.Read(p.read)
	p.buf = nil
	if err != nil {
		return 0, err
	}
	return p.n, p.err
}

// glance does it for connections that are no sockets, and on systems where
// sockets cannot be read in this way: it waits, for a millisecond.
func (p *probe) glance(b []byte) (int, error) {
	if err := p.Conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		err = errNothing
	}
	if reset := p.Conn.SetReadDeadline(time.Time{}); reset != nil {
		return n, reset
	}
	return n, err
}
