package hosturl_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/distsession/session/internal/hosturl"
)

func TestServers(t *testing.T) {
	for _, tt := range []struct {
		url, want, why string
	}{
		{"x://h1", "h1:7", "the usual port"},
		{"x://h1,h2", "h1:7 h2:7", "of each"},
		{"x://h1:1,h2:2", "h1:1 h2:2", "ports of their own"},
		{"x://h1?addr=[::1]&addr=[::2]:3", "h1:7 [::1]:7 [::2]:3", "IPv6 as parameters"},
		{"x:?addr=h1", "h1:7", "parameters alone"},
		{"x:", "", "no host"},
		{"x://h1:0", "", "no such port"},
		{"x://,h1:1", "", "an empty host"},
		{"x:?addr=a/b", "", "a path"},
		{"x:?addr=user@h1", "", "a user"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := hosturl.Servers(u, u.Query()["addr"], "7")
		if strings.Join(got, " ") != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s (%s): %q, %v; want %s", tt.url, tt.why, got, err, tt.want)
		}
	}
}

func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		url, user, password string // the latter as parameters
		want                string // "": an error
		why                 string
	}{
		{"x://h1", "", "", ":", "nobody signs in"},
		{"x://ann:secret@h1", "", "", "ann:secret", "from the URL"},
		{"x://h1", "ann", "secret", "ann:secret", "from the parameters"},
		{"x://ann:secret@h1", "ann", "secret", "", "from both"},
		{"x://ann@h1", "", "", "", "no password"},
		{"x://h1", "", "secret", "", "no user"},
	} {
		u, err := url.Parse(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		user, password, err := hosturl.Credentials(u, tt.user, tt.password)
		if got := user + ":" + password; (err != nil) != (tt.want == "") || err == nil && got != tt.want {
			t.Errorf("%s (%s): %s, %v; want %s", tt.url, tt.why, got, err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", tt.url, err)
		}
	}
}

// A password that was not escaped is found out, and not shown.
func TestWhole(t *testing.T) {
	for text, want := range map[string]bool{
		"x://ann:secret@h1/path?a=b": true,
		"x://ann:%2Fsecret@h1":       true,
		"x://ann:sec/ret@h1":         false,
		"x://ann?secret@h1":          false,
		"x:ann:secret":               false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			continue // refused already
		}
		if err := hosturl.Whole(u); (err == nil) != want || err != nil && strings.Contains(err.Error(), "ret") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
