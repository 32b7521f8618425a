// Package wire is the part of Hazelcast's open binary client protocol, version
// 2, that a cache of bytes needs.
//
// A client sends the bytes "CP2" and then messages; answers come in any order. A
// message is one or more frames, a frame is
//
//	int32   length, these six bytes included
//	uint16  flags
//	body
//
// and everything is little-endian but what is inside Data. The first frame of a
// request has
//
//	int32  type
//	int64  correlation, which the answer repeats
//	int32  partition, -1 for none
//	the parameters of a fixed size
//
// and that of an answer
//
//	int32  type: the request's plus 1, or 0 for an error
//	int64  correlation
//	byte   backup acknowledgements
//	the results of a fixed size
//
// Each parameter of a variable size has a frame of its own, or several between
// frames that begin and end a structure.
package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The flags of a frame.
const (
	flagWhole = 0xC000 // on the first: begins and ends the message, which comes in one piece
	flagFinal = 0x2000 // on the last
	flagBegin = 0x1000 // a structure begins
	flagEnd   = 0x0800 // and ends
	flagNull  = 0x0400 // nothing stands here
	flagEvent = 0x0200 // nobody asked for this message
)

const (
	frameHeader = 6
	fixed       = 16 // where the parameters of a request's first frame begin
	results     = 13 // and the results of an answer's

	// frameCost is what a frame counts towards a message's limit beside its
	// bytes: so much memory it takes to hold it.
	frameCost = 48
)

// ErrMalformed: what came is not the protocol. The connection is of no use any
// more.
var ErrMalformed = errors.New("the member's answer cannot be read")

type frame struct {
	flags uint16
	body  []byte
}

func (f frame) is(flag uint16) bool { return f.flags&flag == flag }

// A Message is an answer.
type Message struct {
	frames []frame
}

// readMessage reads one message that takes at most limit bytes of memory. What
// a frame says of its length is believed only up to there.
func readMessage(r *bufio.Reader, limit int) (*Message, error) {
	m := &Message{}
	for {
		var head [frameHeader]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		length := int(int32(binary.LittleEndian.Uint32(head[:])))
		f := frame{flags: binary.LittleEndian.Uint16(head[4:])}
		limit -= length + frameCost
		switch {
		case length < frameHeader:
			return nil, ErrMalformed
		case limit < 0:
			return nil, fmt.Errorf("%w: it is too large", ErrMalformed)
		}
		f.body = make([]byte, length-frameHeader)
		if _, err := io.ReadFull(r, f.body); err != nil {
			return nil, noEnd(err)
		}
		m.frames = append(m.frames, f)
		if f.is(flagFinal) {
			break
		}
	}
	if first := m.frames[0]; !first.is(flagWhole) || len(first.body) < results {
		return nil, ErrMalformed
	}
	return m, nil
}

func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (m *Message) kind() int32        { return int32(binary.LittleEndian.Uint32(m.frames[0].body)) }
func (m *Message) correlation() int64 { return int64(binary.LittleEndian.Uint64(m.frames[0].body[4:])) }
func (m *Message) event() bool        { return m.frames[0].is(flagEvent) }

// fixed returns n bytes of the results, which begin at offset of the first
// frame.
func (m *Message) fixed(offset, n int) ([]byte, error) {
	return m.part(0, offset, n)
}

func (m *Message) part(at, offset, n int) ([]byte, error) {
	if at >= len(m.frames) || len(m.frames[at].body) < offset+n {
		return nil, ErrMalformed
	}
	return m.frames[at].body[offset : offset+n], nil
}

// bool returns the result of a request that has no other.
func (m *Message) bool() (bool, error) {
	b, err := m.fixed(results, 1)
	if err != nil {
		return false, err
	}
	return b[0] != 0, nil
}

// frame returns a frame that has to be there.
func (m *Message) frame(at int) (frame, error) {
	if at >= len(m.frames) {
		return frame{}, ErrMalformed
	}
	return m.frames[at], nil
}

// skip returns where n values end that begin at a frame: a structure is one.
func (m *Message) skip(at, n int) int {
	for depth := 0; n > 0 && at < len(m.frames); at++ {
		switch f := m.frames[at]; {
		case f.is(flagBegin):
			depth++
		case f.is(flagEnd):
			depth--
		}
		if depth == 0 {
			n--
		}
	}
	return at
}

// A Request is a message to a member.
type Request struct {
	kind  int32
	bytes []byte
	last  int // where the last frame begins
}

// newRequest begins a message whose parameters of a fixed size are these.
func newRequest(kind, partition int32, parameters ...byte) *Request {
	r := &Request{kind: kind}
	body := make([]byte, fixed, fixed+len(parameters))
	binary.LittleEndian.PutUint32(body, uint32(kind))
	binary.LittleEndian.PutUint32(body[12:], uint32(partition))
	r.frame(flagWhole, append(body, parameters...))
	return r
}

func (r *Request) frame(flags uint16, body ...[]byte) {
	r.last = len(r.bytes)
	length := frameHeader
	for _, part := range body {
		length += len(part)
	}
	r.bytes = binary.LittleEndian.AppendUint32(r.bytes, uint32(length))
	r.bytes = binary.LittleEndian.AppendUint16(r.bytes, flags)
	for _, part := range body {
		r.bytes = append(r.bytes, part...)
	}
}

func (r *Request) string(text string) { r.frame(0, []byte(text)) }

// nullable writes text, or nothing for "".
func (r *Request) nullable(text string) {
	if text == "" {
		r.frame(flagNull)
		return
	}
	r.string(text)
}

// seal returns the bytes of the message.
func (r *Request) seal(correlation int64) []byte {
	binary.LittleEndian.PutUint64(r.bytes[frameHeader+4:], uint64(correlation))
	flags := r.bytes[r.last+4:]
	binary.LittleEndian.PutUint16(flags, binary.LittleEndian.Uint16(flags)|flagFinal)
	return r.bytes
}
