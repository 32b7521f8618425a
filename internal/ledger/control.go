package ledger

import (
	"crypto/sha512"
	"sync"
	"time"
)

// A control does the same work again and again beside the workers. It tells how
// much longer work takes on this machine at present than with nobody else there:
// what a promise in seconds must be measured by, for servers too are late where
// they have to wait for a processor.
type control struct {
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup

	best     time.Duration // of a step, which is too short to be interrupted each time
	all      time.Duration // of all steps
	steps    int
	slowdown float64
}

const (
	controlStep  = 512 << 10              // bytes hashed: about a millisecond
	controlSteps = 15                     // in a row: longer than a processor is given at once
	controlRest  = 100 * time.Millisecond // between the rows, so that the control is little load itself
)

func startControl() *control {
	c := &control{stop: make(chan struct{})}
	c.done.Go(func() {
		data := make([]byte, controlStep)
		for {
			for range controlSteps {
				start := time.Now()
				sha512.Sum512(data)
				c.step(time.Since(start))
			}
			select {
			case <-c.stop:
				return
			case <-time.After(controlRest):
			}
		}
	})
	return c
}

func (c *control) step(took time.Duration) {
	if c.steps == 0 || took < c.best {
		c.best = took
	}
	c.all += took
	c.steps++
}

// end stops the control and returns how many times longer its work took than it
// would alone: 1 if nobody else was there.
func (c *control) end() float64 {
	c.once.Do(func() {
		close(c.stop)
		c.done.Wait()
		c.slowdown = float64(c.all) / (float64(c.best) * float64(c.steps))
	})
	return c.slowdown
}
