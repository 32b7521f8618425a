package wire

// What the tests look at from inside.

var (
	ReadMessage          = readMessage
	Murmur3              = murmur3
	Expiry               = expiry
	ModifiedExpiryPolicy = modifiedExpiryPolicy
)

const (
	MillisAt   = millisAt
	DataHeader = dataHeader
)

// Read reads a message in every way there is: none may panic.
func (m *Message) Read() {
	m.kind()
	m.correlation()
	m.event()
	_, _ = m.login()
	_, _ = m.value()
	_, _ = m.bool()
	_, _ = m.replaced()
	_, _, _ = m.config()
	_, _, _ = m.keys()
	_ = m.failure()
}

// Bytes returns the message as it came.
func (m *Message) Bytes() []byte {
	r := &Request{}
	for _, f := range m.frames {
		r.frame(f.flags, f.body)
	}
	return r.bytes
}
