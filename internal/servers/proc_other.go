//go:build !linux

package servers

import "syscall"

func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// stopped cannot tell here.
func stopped(int) bool { return true }
