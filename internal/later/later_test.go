package later_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/internal/later"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		stop := later.Until(5*time.Second, func(context.Context) bool {
			at = append(at, time.Since(began))
			return len(at) == 5
		})
		time.Sleep(time.Hour)
		stop()
		want := []time.Duration{5 * time.Second, 15 * time.Second, 35 * time.Second, 65 * time.Second, 95 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("tried after %v; want %v", at, want)
		}
		stop()
	})
}

// A try that is under way is ended, and waited for.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, over := 0, false
		stop := later.Until(time.Second, func(ctx context.Context) bool {
			tries++
			<-ctx.Done()
			over = true
			return false
		})
		time.Sleep(time.Minute)
		stop()
		if tries != 1 || !over {
			t.Errorf("%d tries, over: %v; want one that has ended", tries, over)
		}
		stop = later.Until(time.Second, func(context.Context) bool { tries++; return false })
		stop()
		time.Sleep(time.Minute)
		if tries != 1 {
			t.Error("tried after stop")
		}
	})
}
