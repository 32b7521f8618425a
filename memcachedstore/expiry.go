package memcachedstore

import (
	"math"
	"time"
)

// relativeMax is the longest time to live that memcached takes in seconds from
// now; a larger number is a date (protocol.txt, "Expiration times").
const relativeMax = 30 * 24 * 60 * 60

// expiration is what the server is told of an item that must live until end.
// The record has the exact time, so the server only ever errs to the longer
// side: the seconds are rounded up, and one is added because the server's
// clock ticks in seconds ("1" may live 0.2 s). Nothing lives less than that,
// for 0 would be for ever.
func expiration(end, now time.Time) int32 {
	const second = int64(time.Second)
	left := int64(end.Sub(now)) // saturates at 292 years
	seconds := max(left/second, 0) + 1
	if left > 0 && left%second > 0 {
		seconds++
	}
	if seconds <= relativeMax {
		return int32(seconds)
	}
	date := now.Unix() + seconds + dateSlack
	if date > math.MaxInt32 {
		return relativeMax // the field ends in 2038
	}
	return int32(date)
}

// dateSlack is how far the server's clock may be ahead of ours. It matters to
// dates alone.
const dateSlack = 60 * 60
