package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const glusterHint = "install the packages glusterfs-server, glusterfs-client and fuse3"

// GlusterFS is a replicated file system on two bricks, mounted twice, as on two
// nodes.
type GlusterFS struct {
	Bricks [2]*Process
	Mounts [2]string // folders

	mounts [2]*Process
}

// Gluster starts it, without its management daemon, which refuses loopback
// addresses. It takes root and /dev/fuse.
func Gluster(t testing.TB) *GlusterFS {
	t.Helper()
	server := Require(t, "glusterfsd", glusterHint)
	client := Require(t, "glusterfs", glusterHint)
	Require(t, "fusermount3", glusterHint)
	if err := canMount(); err != nil {
		Lacking(t, err.Error())
	}
	dir := t.TempDir()
	g := &GlusterFS{}
	var ports [2]string
	for i := range g.Bricks {
		ports[i] = FreePort(t)
		brick := filepath.Join(dir, fmt.Sprintf("brick%d", i+1))
		must(t, "make a brick", os.MkdirAll(filepath.Join(brick, ".glusterfs", "indices"), 0o700))
		vol := brick + ".vol"
		must(t, "write a volume file", os.WriteFile(vol, []byte(brickVolume(brick, ports[i])), 0o600))
		g.Bricks[i] = start(t, dir, server, "--no-daemon", "-f", vol, "-l", brick+".log", "-p", brick+".pid", "--volfile-id", filepath.Base(brick))
	}
	vol := filepath.Join(dir, "client.vol")
	must(t, "write a volume file", os.WriteFile(vol, []byte(clientVolume(ports)), 0o600))
	for i := range g.mounts {
		at := filepath.Join(dir, fmt.Sprintf("mount%d", i+1))
		must(t, "make a mount point", os.Mkdir(at, 0o700))
		g.Mounts[i] = at
		// The kernel caches no names: what one mount changes the other sees at once.
		g.mounts[i] = start(t, dir, client, "--no-daemon", "-f", vol, "-l", at+".log", "-p", at+".pid",
			"--entry-timeout=0", "--attribute-timeout=0", "--negative-timeout=0", at)
		t.Cleanup(func() {
			g.mounts[i].Kill() // what hangs in it fails now
			_ = syscall.Unmount(at, syscall.MNT_DETACH)
		})
	}
	for i := range g.Mounts {
		g.WaitMount(t, i)
	}
	return g
}

// Remount ends the program behind a mount, as a crash does, and mounts again.
// between is called while nothing is mounted.
func (g *GlusterFS) Remount(t testing.TB, i int, between func()) {
	t.Helper()
	g.mounts[i].Kill()
	must(t, "unmount", syscall.Unmount(g.Mounts[i], syscall.MNT_DETACH))
	between()
	g.mounts[i].run(t)
	g.WaitMount(t, i)
}

// WaitMount waits until a mount answers.
func (g *GlusterFS) WaitMount(t testing.TB, i int) {
	t.Helper()
	Wait(t, "mount "+g.Mounts[i], startTimeout, func(context.Context) error {
		var is syscall.Statfs_t
		if err := syscall.Statfs(g.Mounts[i], &is); err != nil {
			return err
		}
		if is.Type != fuseMagic {
			return errors.New("not mounted yet")
		}
		_, err := os.ReadDir(g.Mounts[i])
		return err
	})
}

const fuseMagic = 0x65735546

// StartBrick starts a brick again after Kill.
func (g *GlusterFS) StartBrick(t testing.TB, i int) {
	t.Helper()
	g.Bricks[i].run(t)
}

// canMount tells what keeps this process from mounting.
func canMount() error {
	if os.Geteuid() != 0 {
		return errors.New("mounting takes root")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("mounting takes /dev/fuse: %w", err)
	}
	return f.Close()
}

func brickVolume(dir, port string) string {
	var b strings.Builder
	volume(&b, "posix", "storage/posix", "", "directory "+dir)
	volume(&b, "locks", "features/locks", "posix")
	volume(&b, "index", "features/index", "locks",
		"index-base "+dir+"/.glusterfs/indices",
		"xattrop-dirty-watchlist trusted.afr.dirty",
		"xattrop-pending-watchlist trusted.afr.sessions-")
	volume(&b, "brick", "performance/io-threads", "index")
	volume(&b, "server", "protocol/server", "brick",
		"transport-type tcp", "transport.socket.bind-address 127.0.0.1",
		"transport.socket.listen-port "+port, "auth.addr.brick.allow 127.0.0.1")
	return b.String()
}

func clientVolume(ports [2]string) string {
	var b strings.Builder
	for i, port := range ports {
		volume(&b, fmt.Sprintf("client%d", i+1), "protocol/client", "",
			"transport-type tcp", "remote-host 127.0.0.1", "remote-port "+port,
			"remote-subvolume brick", "ping-timeout 5")
	}
	volume(&b, "replicas", "cluster/replicate", "client1 client2", "afr-pending-xattr sessions-client-0,sessions-client-1")
	return b.String()
}

// volume writes one layer of a volume file on those below.
func volume(b *strings.Builder, name, kind, below string, options ...string) {
	fmt.Fprintf(b, "volume %s\n type %s\n", name, kind)
	for _, o := range options {
		fmt.Fprintf(b, " option %s\n", o)
	}
	if below != "" {
		fmt.Fprintf(b, " subvolumes %s\n", below)
	}
	b.WriteString("end-volume\n")
}
