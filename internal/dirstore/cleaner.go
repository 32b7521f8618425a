package dirstore

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// cleaner calls Clean in the background.
type cleaner struct {
	once sync.Once
	stop context.CancelFunc
	done chan struct{}
}

const (
	cleanTimeout = time.Minute
	cleanLimit   = 1000
)

// CleanEvery removes what has expired, in the background, at this interval, the
// first time after a random part of it: nodes that start together do not all
// clean at once. It ends with StopCleaning. Call it once.
func (s *Store) CleanEvery(interval time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	s.cleaner.stop, s.cleaner.done = cancel, make(chan struct{})
	go func() {
		defer close(s.cleaner.done)
		wait := time.NewTimer(rand.N(interval) + 1)
		defer wait.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-wait.C:
			}
			s.cleanAll(ctx)
			wait.Reset(interval)
		}
	}()
}

// cleanAll cleans until nothing more has expired, or it fails: then the next
// one goes on.
func (s *Store) cleanAll(ctx context.Context) {
	for {
		ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
		n, err := s.Clean(ctx, s.now(), cleanLimit)
		cancel()
		if err != nil || n < cleanLimit {
			return
		}
	}
}

// StopCleaning ends what CleanEvery began, and waits for it.
func (s *Store) StopCleaning() {
	s.cleaner.once.Do(func() {
		if s.cleaner.stop != nil {
			s.cleaner.stop()
			<-s.cleaner.done
		}
	})
}
