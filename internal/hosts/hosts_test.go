package hosts_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/hosts"
)

func TestRead(t *testing.T) {
	t.Setenv("HOSTS_PASSWORD", "secret")
	for _, tt := range []struct {
		url, want, mend, why string
	}{
		{"x://h1", "h1:7", "", "the usual port"},
		{"x://h1,h2", "h1:7 h2:7", "", "of each"},
		{"x://h1:1,h2:2", "h1:1 h2:2", "", "ports of their own"},
		{"x://h1?addr=[::1]&addr=[::2]:3", "h1:7 [::1]:7 [::2]:3", "", "IPv6 as parameters"},
		{"x:?addr=h1", "h1:7", "", "parameters alone"},
		{"x://h1/a/", "h1:7 path a", "", "a path"},
		{"x://ann:secret@h1", "h1:7 ann:secret", "", "who signs in, from the URL"},
		{"x://ann:%2Fsecret@h1", "h1:7 ann:/secret", "", "an escaped one"},
		{"x://h1?username=ann&password=env:HOSTS_PASSWORD", "h1:7 ann:secret", "", "from the parameters"},
		{"x:", "", "names no host", "no host"},
		{"x://h1:0", "", "a host cannot be read", "no such port"},
		{"x://,h1:1", "", "a host cannot be read", "an empty host"},
		{"x:?addr=a/b", "", "a host cannot be read", "a path for a host"},
		{"x:?addr=user@h1", "", "cannot be read", "a user in a parameter"},
		{"x://h1?more=1", "", `"more" is not known`, "an unknown parameter"},
		{"x://ann:secret@h1?username=ann&password=env:HOSTS_PASSWORD", "", "keep the parameters", "from both"},
		{"x://ann@h1", "", "belong together", "no password"},
		{"x://h1?password=env:HOSTS_PASSWORD", "", "belong together", "no user"},
		{"x://ann?secret@h1", "", "escape special characters", "a password that was not escaped"},
		{"x:ann:secret", "", "cannot be read", "no slashes"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := hosts.Read(u, session.NewParams(u), "x", "7")
		if tt.want == "" {
			if !errors.Is(err, session.ErrConfig) || !strings.Contains(err.Error(), tt.mend) || strings.Contains(err.Error(), "ret") {
				t.Errorf("%s (%s): %+v, %v; want ErrConfig with %q", tt.url, tt.why, got, err, tt.mend)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s (%s): %v", tt.url, tt.why, err)
			continue
		}
		text := strings.Join(got.Addrs, " ")
		if got.Path != "" {
			text += " path " + got.Path
		}
		if got.Username != "" {
			text += " " + got.Username + ":" + got.Password
		}
		if text != tt.want {
			t.Errorf("%s (%s): %s; want %s", tt.url, tt.why, text, tt.want)
		}
	}
}

func TestDistinct(t *testing.T) {
	for _, tt := range []struct {
		addrs, want, why string
	}{
		{"h1:1 H2:2", "h1:1 h2:2", "names are compared in lower case"},
		{"h1:1 h1:2", "h1:1 h1:2", "two servers on one host"},
		{"", "", "none"},
		{"h1", "", "no port"},
		{":1", "", "no host"},
		{"h1: ", "", "no number"},
		{"h1:1 H1:1", "", "one of them twice"},
	} {
		got, err := hosts.Distinct(strings.Fields(tt.addrs), "x")
		if strings.Join(got, " ") != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, session.ErrConfig) {
			t.Errorf("%q (%s): %q, %v; want %q", tt.addrs, tt.why, got, err, tt.want)
		}
	}
}
