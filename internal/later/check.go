package later

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// nextCheck is the pause before the second check; it grows.
const nextCheck = time.Second

// Check runs a store's check of its servers at the start, within limit, and logs
// what it finds. If they do not answer yet, it goes on trying in the background
// until stop is called, which is not nil. err is one that final says will not
// get better: then, and when all is well, nothing goes on.
func Check(ctx context.Context, server string, limit time.Duration, check func(context.Context) (found []error, err error), final func(error) bool) (stop func(), err error) {
	once := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		found, err := check(ctx)
		if err != nil {
			return err
		}
		for _, finding := range found {
			slog.Warn(finding.Error())
		}
		return nil
	}
	err = once(ctx)
	switch {
	case err == nil:
		return func() {}, nil
	case final(err):
		return func() {}, err
	}
	slog.Warn(fmt.Sprintf("session: %s does not answer yet", server), "error", err)
	return Until(nextCheck, func(ctx context.Context) bool {
		err := once(ctx)
		if err != nil && final(err) {
			slog.Error(fmt.Sprintf("session: %s: %v", server, err))
			return true
		}
		return err == nil
	}), nil
}
