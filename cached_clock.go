package session

import (
	"math"
	"time"
)

// instant is a moment on all the clocks there are. No single one can be trusted
// with the age of a copy: the monotonic clock of Linux stands still while the
// machine is suspended (clock_gettime(2), CLOCK_MONOTONIC), and the wall clock
// can be set back.
type instant struct {
	real time.Time // both of the machine's clocks
	told time.Time // what Now said; the zero time if it is time.Now
}

// setBack is by how much a wall clock must go backwards to have been set back:
// its two readings and the monotonic clock's are not taken at once.
const setBack = -time.Millisecond

// forever is the age of what no clock can tell the age of.
const forever = time.Duration(math.MaxInt64)

func (c *copies) instant() instant {
	at := instant{real: time.Now()}
	if c.now != nil {
		at.told = c.now()
	}
	return at
}

// clock is the time by which records expire.
func (at instant) clock() time.Time {
	if at.told.IsZero() {
		return at.real
	}
	return at.told
}

// since is the longest that any clock says has passed from then to at.
func (at instant) since(then instant) time.Duration {
	monotonic := at.real.Sub(then.real)
	wall := at.real.Round(0).Sub(then.real.Round(0))
	told := at.told.Round(0).Sub(then.told.Round(0))
	if monotonic >= 0 && (wall < setBack || told < setBack) {
		return forever
	}
	return max(monotonic, wall, told)
}
