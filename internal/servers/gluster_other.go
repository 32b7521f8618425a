//go:build !linux

package servers

import "testing"

// GlusterFS is a replicated file system on two bricks, mounted twice.
type GlusterFS struct {
	Bricks [2]*Process
	Mounts [2]string
}

// Gluster skips the test: the mounts take Linux.
func Gluster(t testing.TB) *GlusterFS {
	t.Helper()
	Lacking(t, "GlusterFS is mounted on Linux only")
	return nil
}

// WaitMount is never called here.
func (g *GlusterFS) WaitMount(testing.TB, int) {}

// Remount is never called here.
func (g *GlusterFS) Remount(testing.TB, int, func()) {}

// StartBrick is never called here.
func (g *GlusterFS) StartBrick(testing.TB, int) {}
