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
	monotonic time.Duration // since the copies were made
	wall      time.Time
	told      time.Time // what Now says; wall if there is none
}

// setBack is by how much a wall clock must go backwards to have been set back:
// it and the monotonic clock are not read at once.
const setBack = -time.Millisecond

// forever is the age of what no clock can tell the age of.
const forever = time.Duration(math.MaxInt64)

func (c *copies) instant() instant {
	now := time.Now()
	at := instant{monotonic: now.Sub(c.born), wall: now.Round(0)}
	if at.told = at.wall; c.now != nil {
		at.told = c.now().Round(0)
	}
	return at
}

// since is the longest that any clock says has passed from then to at.
func (at instant) since(then instant) time.Duration {
	monotonic, wall, told := at.monotonic-then.monotonic, at.wall.Sub(then.wall), at.told.Sub(then.told)
	if monotonic >= 0 && (wall < setBack || told < setBack) {
		return forever
	}
	return max(monotonic, wall, told)
}
