// Package load puts wrk on a server, and tells what that cost a process.
package load

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Connections is how many wrk keeps busy.
const Connections = 32

var (
	answered = regexp.MustCompile(`(\d+) requests in`)
	rate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	refused  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	broken   = regexp.MustCompile(`Socket errors: `)
)

// Found is an error that says how to get wrk, if there is none.
func Found() error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("wrk is not installed; on Debian: apt-get install wrk")
	}
	return nil
}

// Wrk sends requests for so many seconds. An answer other than 2xx or 3xx, or
// none, is an error. The arguments are wrk's.
func Wrk(url string, seconds int, args ...string) (requests int, perSecond float64, err error) {
	args = append([]string{"-t1", "-c" + strconv.Itoa(Connections), "-d" + strconv.Itoa(seconds) + "s"}, append(args, url)...)
	out, err := exec.Command("wrk", args...).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	n, r := answered.FindSubmatch(out), rate.FindSubmatch(out)
	if n == nil || r == nil || refused.Match(out) || broken.Match(out) {
		return 0, 0, fmt.Errorf("wrk: %s", out)
	}
	if requests, err = strconv.Atoi(string(n[1])); err == nil && requests == 0 {
		err = fmt.Errorf("wrk: %s", out)
	}
	if err != nil {
		return 0, 0, err
	}
	perSecond, err = strconv.ParseFloat(string(r[1]), 64)
	return requests, perSecond, err
}

// CPU is the time that a process has spent, in user and kernel mode, its
// children's included.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces; utime and stime are the 12th
	// and 13th field after it, in hundredths of a second.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	all := time.Duration(user+system) * 10 * time.Millisecond
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(children)) {
		n, err := strconv.Atoi(child)
		if err != nil {
			return 0, err
		}
		t, err := CPU(n)
		if err != nil {
			return 0, err
		}
		all += t
	}
	return all, nil
}
