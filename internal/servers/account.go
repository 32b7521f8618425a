package servers

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// account returns whom a server runs as that refuses to be root: the first of
// these users, or nobody. It is nil if this process is not root's.
func account(t testing.TB, names ...string) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range append(names, "nobody") {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		must(t, "the user "+name, err)
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		must(t, "the user "+name, err)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatalf("there is none of the users %v and nobody, and root runs no such server", names)
	return nil
}

// folderOf makes a folder that belongs to as. (The test's own lies in one that
// only this process's user can enter.) If within is "", it is in the system's
// folder for such things.
func folderOf(t testing.TB, as *syscall.Credential, within, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(within, "session-"+name+"-")
	must(t, "a folder", err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if as != nil {
		must(t, "chown", os.Chown(dir, int(as.Uid), int(as.Gid)))
	}
	return dir
}

// runAs runs a program to its end.
func runAs(t testing.TB, as *syscall.Credential, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// newest is the last of the files that match, or alt if none does.
func newest(pattern, alt string) string {
	found, _ := filepath.Glob(pattern)
	if len(found) == 0 {
		return alt
	}
	return slices.Max(found)
}
