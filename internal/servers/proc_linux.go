package servers

import "syscall"

// sysProcAttr makes a process end with this one, whatever becomes of it.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
