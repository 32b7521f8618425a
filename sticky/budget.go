package sticky

import "sync/atomic"

// budget bounds how many requests are sent again, so that retries cannot
// multiply the load on what is left. It is a purse: each request earns a part
// of a retry.
type budget struct {
	part int64        // in thousandths
	have atomic.Int64 // in thousandths
}

const purse = 500 // requests in flight on a node that dies

func (b *budget) init(part float64) {
	if part < 0 {
		return
	}
	b.part = int64(part * 1000)
	b.have.Store(purse * 1000)
}

func (b *budget) earn() {
	if b.part > 0 && b.have.Load() < purse*1000 {
		b.have.Add(b.part)
	}
}

// take spends one retry, if there is one.
func (b *budget) take() bool {
	if b.have.Add(-1000) >= 0 {
		return true
	}
	b.have.Add(1000)
	return false
}
