package natsstore_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/natsstore"
)

// A node is not ready before it has caught up for the first time, nor when it is
// behind for long, nor without a leader; a moment behind under load is no reason.
func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		judge := natsstore.Judge()
		leaderless := errors.New("no leader")
		for _, step := range []struct {
			after     time.Duration
			saw, want error
			why       string
		}{
			{0, natsstore.Behind, natsstore.Behind, "it has never caught up"},
			{time.Second, natsstore.Behind, natsstore.Behind, "it still has not"},
			{time.Second, nil, nil, "it has caught up"},
			{time.Second, natsstore.Behind, nil, "a change is on its way"},
			{900 * time.Millisecond, natsstore.Behind, nil, "another one, still within two seconds"},
			{50 * time.Millisecond, nil, nil, "it has it"},
			{1900 * time.Millisecond, natsstore.Behind, nil, "the two seconds have begun anew"},
			{200 * time.Millisecond, natsstore.Behind, natsstore.Behind, "behind for more than two seconds"},
			{time.Second, nil, nil, "it has caught up again"},
			{50 * time.Millisecond, leaderless, leaderless, "without a leader nobody knows"},
		} {
			time.Sleep(step.after)
			if got := judge(time.Now(), step.saw); got != step.want {
				t.Errorf("%v; want %v: %s", got, step.want, step.why)
			}
		}
	})
}
