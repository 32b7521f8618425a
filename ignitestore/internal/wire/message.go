package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The types of objects that are used: every other is refused.
const (
	typeString = 9
	typeBytes  = 12
	typeNull   = 101
)

// ErrNonsense: what came is not the protocol. The connection is of no use any
// more, for nobody knows where the next message begins.
var ErrNonsense = errors.New("the answer cannot be read")

var order = binary.LittleEndian

// A message under construction. Its first four bytes are its length.
type message []byte

func (m message) byte(v byte) message   { return append(m, v) }
func (m message) int16(v int16) message { return order.AppendUint16(m, uint16(v)) }
func (m message) int32(v int32) message { return order.AppendUint32(m, uint32(v)) }
func (m message) int64(v int64) message { return order.AppendUint64(m, uint64(v)) }
func (m message) string(v string) message {
	return append(m.byte(typeString).int32(int32(len(v))), v...)
}
func (m message) bytes(v []byte) message { return append(m.byte(typeBytes).int32(int32(len(v))), v...) }

func (m message) bool(v bool) message {
	if v {
		return m.byte(1)
	}
	return m.byte(0)
}

// sealed fills in the length.
func (m message) sealed() message {
	order.PutUint32(m, uint32(len(m)-4))
	return m
}

// parser reads a message. After a failure everything is zero.
type parser struct {
	b      []byte
	failed bool
}

func (p *parser) take(n int) []byte {
	if n < 0 || n > len(p.b) {
		p.b, p.failed = nil, true
	}
	if p.failed {
		return nil
	}
	head := p.b[:n:n]
	p.b = p.b[n:]
	return head
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) int16() int16 {
	if b := p.take(2); b != nil {
		return int16(order.Uint16(b))
	}
	return 0
}

func (p *parser) int32() int32 {
	if b := p.take(4); b != nil {
		return int32(order.Uint32(b))
	}
	return 0
}

func (p *parser) int64() int64 {
	if b := p.take(8); b != nil {
		return int64(order.Uint64(b))
	}
	return 0
}

func (p *parser) bool() bool {
	v := p.byte()
	p.failed = p.failed || v > 1
	return v == 1 && !p.failed
}

// object returns a string's or a byte array's content, nil for null. It is a
// part of the message.
func (p *parser) object(kind byte) []byte {
	switch p.byte() {
	case kind:
		if b := p.take(int(p.int32())); b != nil {
			return b
		}
		p.failed = true
	case typeNull:
		return nil
	}
	p.failed = true
	return nil
}

// count returns a number of things that take at least size bytes each.
func (p *parser) count(size int) int {
	n := int(p.int32())
	if n < 0 || n > len(p.b)/size {
		p.failed = true
		return 0
	}
	return n
}

// end is ErrNonsense unless the message has been read to its last byte.
func (p *parser) end() error {
	if p.failed || len(p.b) > 0 {
		return ErrNonsense
	}
	return nil
}

// chunk is how much memory a message gets before its bytes are there.
const chunk = 64 << 10

// readFrame reads one message without its length. However long a message says
// that it is, it takes no more memory than twice what has come of it. heard is
// called whenever something has.
func readFrame(r *bufio.Reader, limit int, heard func()) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	heard()
	n := int64(int32(order.Uint32(head[:])))
	if n <= 0 || n > int64(limit) {
		return nil, fmt.Errorf("%w: a message of %d bytes, of at most %d", ErrNonsense, n, limit)
	}
	b := make([]byte, min(n, chunk))
	for read := 0; ; {
		m, err := io.ReadFull(r, b[read:])
		if err != nil {
			return nil, fmt.Errorf("in the middle of an answer: %w", io.ErrUnexpectedEOF)
		}
		heard()
		if read += m; int64(read) == n {
			return b, nil
		}
		b = append(b, make([]byte, min(n-int64(read), int64(read)))...)
	}
}

// CacheID is how requests name a cache: Java's hash of its name.
func CacheID(name string) int32 {
	var h int32
	for _, c := range []byte(name) { // of ASCII, in which a byte is a Java char
		h = 31*h + int32(c)
	}
	return h
}

// milliseconds of an expiry policy; the server knows no spans below one.
func milliseconds(d time.Duration) int64 { return max(1, (d + time.Millisecond - 1).Milliseconds()) }
