//go:build unix && !aix && !solaris

package dirstore

import "context"

// Call runs f as a call of the tree.
func (l *Local) Call(ctx context.Context, f func() error) error { return l.run(ctx, f) }
