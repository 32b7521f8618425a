package wire

import (
	"bufio"
	"bytes"
	"context"
)

// What the fuzz targets look at from inside.

// MostRows is how many ParseAnswers takes.
const MostRows = 2

// ParseAnswers reads b as what follows the id of an answer, in each way there
// is, and returns the lengths of what came of it.
func ParseAnswers(b []byte) (read []int) {
	for _, parse := range []func(*parser){
		func(p *parser) { read = append(read, len(p.object(typeBytes))) },
		func(p *parser) { p.bool() },
		func(p *parser) {
			for _, e := range p.entries(MostRows) {
				read = append(read, len(e.Key), len(e.Value))
			}
			p.bool()
		},
		func(p *parser) { read = append(read, len(p.config().Region)) },
	} {
		_ = parseAnswer(b, parse) // an error, or not: it must not panic
	}
	_ = greeting(b)
	return read
}

// ReadFrame reads one message of at most limit bytes.
func ReadFrame(b []byte, limit int) ([]byte, error) {
	return readFrame(bufio.NewReader(bytes.NewReader(b)), limit, func() {})
}

// CreateFickle makes a cache whose own policy lets an entry that was read live
// for one more millisecond.
func (c *Conn) CreateFickle(ctx context.Context, name string) error {
	m := newRequest(opCreate).int32(0)
	from := len(m)
	m = m.int16(2)
	m = m.int16(0).string(name)
	m = m.int16(407).bool(true).int64(unchanged).int64(unchanged).int64(1)
	order.PutUint32(m[from-4:], uint32(len(m)-from))
	return c.ask(ctx, m, func(*parser) {})
}
