// Package later tries again, in the background, what a server was not ready for
// when the program started.
package later

import (
	"context"
	"sync"
	"time"
)

// longest is the longest pause between two tries.
const longest = 30 * time.Second

// Until calls f after first, and then after ever longer pauses of up to half a
// minute, until f returns true or stop is called. stop ends f's context and
// waits for f; it may be called again.
func Until(first time.Duration, f func(ctx context.Context) (done bool)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for pause := first; ; pause = min(2*pause, longest) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			if f(ctx) {
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
