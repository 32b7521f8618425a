package servers

import (
	"os/exec"
	"testing"
)

// Pause returns when the process stands still, not when it has been told to.
func TestPause(t *testing.T) {
	yes, err := exec.LookPath("yes")
	if err != nil {
		t.Skip(err)
	}
	p := Start(t, t.TempDir(), "/bin/sh", "-c", "exec "+yes+" >/dev/null")
	for range 20 {
		p.Pause()
		if !stopped(p.cmd.Process.Pid) {
			t.Error("it runs")
		}
		p.Resume()
	}
	p.Kill()
	p.Pause() // does nothing, and returns
}
