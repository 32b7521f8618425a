package members_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session/internal/members"
)

var (
	errDown = errors.New("it is down")
	errNo   = errors.New("no")
)

// asked lets the members answer by turns with what fails says, and returns who
// was asked.
func asked(ctx context.Context, g *members.Group, first int, goOn bool, fails map[int]error) (who []int, err error) {
	_, err = members.Ask(ctx, g, first, func(_ context.Context, m int) (struct{}, error) {
		who = append(who, m)
		return struct{}{}, fails[m]
	}, func(err error) bool { return err == errNo }, func(error) bool { return goOn })
	return who, err
}

func TestAsk(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first int
		goOn  bool
		fails map[int]error
		want  []int
		err   error
		next  []int // who is asked next, from member 0 on, if 0 fails then
	}{
		{"the first answers", 1, true, nil, []int{1}, nil, []int{0, 1}},
		{"it is down", 1, true, map[int]error{1: errDown}, []int{1, 2}, nil, []int{0, 2}},
		{"it is down, and the error is final", 1, false, map[int]error{1: errDown}, []int{1}, errDown, []int{0, 2}},
		{"no is an answer", 1, true, map[int]error{1: errNo}, []int{1}, errNo, []int{0, 1}},
		{"all are down", 1, true, map[int]error{0: errDown, 1: errDown, 2: errDown}, []int{1, 2, 0}, errDown, []int{0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := members.NewGroup(3)
				who, err := asked(t.Context(), g, tt.first, tt.goOn, tt.fails)
				if !slices.Equal(who, tt.want) || err != tt.err {
					t.Errorf("asked %v, %v; want %v, %v", who, err, tt.want, tt.err)
				}
				if who, _ := asked(t.Context(), g, 0, true, map[int]error{0: errDown}); !slices.Equal(who, tt.next) {
					t.Errorf("next it asks %v; want %v", who, tt.next)
				}
			})
		})
	}
}

// A member that failed is left alone for a second; then one request tries it.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := members.NewGroup(2)
		down := map[int]error{0: errDown}
		begin := func(what string, want ...int) {
			t.Helper()
			if who, _ := asked(t.Context(), g, 0, true, down); !slices.Equal(who, want) {
				t.Errorf("%s: asked %v; want %v", what, who, want)
			}
		}
		begin("at first", 0, 1)
		begin("a moment later", 1)
		time.Sleep(time.Second + 1)
		begin("a second later", 0, 1)
		begin("a moment after that", 1)
		time.Sleep(time.Second + 1)
		down = nil
		begin("it is back", 0)
		begin("it is back, again", 0)
	})
}

// Of a deadline each member has half of what is left, and the last all of it; a
// caller that has gone says nothing about a member.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := members.NewGroup(2)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		var left []time.Duration
		ask := func(ctx context.Context, _ int) (struct{}, error) {
			end, _ := ctx.Deadline()
			left = append(left, time.Until(end))
			<-ctx.Done()
			return struct{}{}, ctx.Err()
		}
		all := func(error) bool { return true }
		none := func(error) bool { return false }
		if _, err := members.Ask(ctx, g, 0, ask, none, all); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ask: %v", err)
		}
		if want := []time.Duration{2 * time.Second, 2 * time.Second}; !slices.Equal(left, want) {
			t.Errorf("they had %v; want %v", left, want)
		}

		g = members.NewGroup(2)
		gone, cancel := context.WithCancel(t.Context())
		_, err := members.Ask(gone, g, 0, func(ctx context.Context, _ int) (struct{}, error) {
			cancel()
			return struct{}{}, ctx.Err()
		}, none, all)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Ask: %v", err)
		}
		if who, _ := asked(t.Context(), g, 0, true, nil); !slices.Equal(who, []int{0}) {
			t.Errorf("after a caller that has gone it asks %v", who)
		}
	})
}
