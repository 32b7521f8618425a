package sticky_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/distsession/session/sticky"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestClient(t *testing.T) {
	lan := prefixes("10.0.0.0/8", "fd00::/8")
	for _, tt := range []struct {
		why     string
		remote  string
		xff     []string
		trusted []netip.Prefix
		hops    int
		want    string
		chain   string
		known   bool
	}{
		{"nobody is trusted", "192.0.2.1:80", []string{"203.0.113.9"}, nil, 0, "192.0.2.1", "", false},
		{"a stranger's header", "192.0.2.1:80", []string{"203.0.113.9"}, lan, 0, "192.0.2.1", "", false},
		{"a stranger's header, by count too", "192.0.2.1:80", []string{"203.0.113.9"}, lan, 1, "192.0.2.1", "", false},
		{"one proxy", "10.0.0.1:80", []string{"203.0.113.9"}, lan, 0, "203.0.113.9", "203.0.113.9", true},
		{"two proxies", "10.0.0.1:80", []string{"203.0.113.9, 10.0.0.2"}, lan, 0, "203.0.113.9", "203.0.113.9, 10.0.0.2", true},
		{"two lines are one list", "10.0.0.1:80", []string{"203.0.113.9", "10.0.0.2"}, lan, 0, "203.0.113.9", "203.0.113.9,10.0.0.2", true},
		{"forged on the left", "10.0.0.1:80", []string{"1.1.1.1, 10.9.9.9, 203.0.113.9"}, lan, 0, "203.0.113.9", "203.0.113.9", true},
		{"forged as if trusted, behind one proxy by count", "10.0.0.1:80", []string{"203.0.113.9, 10.9.9.9"}, lan, 1, "10.9.9.9", "10.9.9.9", true},
		{"a client within the trusted range", "10.0.0.1:80", []string{"10.0.0.7"}, lan, 0, "10.0.0.7", "10.0.0.7", true},
		{"no header", "10.0.0.1:80", nil, lan, 0, "10.0.0.1", "", true},
		{"rubbish", "10.0.0.1:80", []string{"203.0.113.9, unknown"}, lan, 0, "10.0.0.1", "", true},
		{"rubbish on the left", "10.0.0.1:80", []string{"<script>, 10.0.0.2"}, lan, 0, "10.0.0.2", "10.0.0.2", true},
		{"an empty entry", "10.0.0.1:80", []string{"203.0.113.9,"}, lan, 0, "10.0.0.1", "", true},
		{"IPv6 with port", "[fd00::1]:80", []string{"[2001:db8::7]:4711"}, lan, 0, "2001:db8::7", "[2001:db8::7]:4711", true},
		{"IPv6 in brackets, with zone", "[fd00::1]:80", []string{"[fe80::7%eth0]"}, lan, 0, "fe80::7", "[fe80::7%eth0]", true},
		{"IPv4 with port", "10.0.0.1:80", []string{"203.0.113.9:1234"}, lan, 0, "203.0.113.9", "203.0.113.9:1234", true},
		{"mapped is IPv4", "[::ffff:10.0.0.1]:80", []string{"::ffff:203.0.113.9"}, lan, 0, "203.0.113.9", "::ffff:203.0.113.9", true},
		{"by count: one", "192.0.2.1:80", []string{"1.1.1.1, 203.0.113.9"}, nil, 1, "203.0.113.9", "203.0.113.9", true},
		{"by count: two", "192.0.2.1:80", []string{"1.1.1.1, 203.0.113.9, 192.0.2.2"}, nil, 2, "203.0.113.9", "203.0.113.9, 192.0.2.2", true},
		{"by count: a proxy was passed by", "192.0.2.1:80", []string{"1.1.1.1"}, nil, 2, "192.0.2.1", "", false},
		{"by count: no header", "192.0.2.1:80", nil, nil, 1, "192.0.2.1", "", false},
		{"by count and place: the second is not ours", "10.0.0.1:80", []string{"1.1.1.1, 203.0.113.9"}, lan, 2, "203.0.113.9", "203.0.113.9", true},
		{"a unix socket", "@", []string{"203.0.113.9"}, nil, 1, "203.0.113.9", "203.0.113.9", true},
		{"a unix socket is in no prefix", "@", []string{"203.0.113.9"}, lan, 0, "invalid IP", "", false},
	} {
		addr, chain, known := sticky.ClientOf(tt.remote, tt.xff, tt.trusted, tt.hops)
		if addr.String() != tt.want || chain != tt.chain || known != tt.known {
			t.Errorf("%s: %v, %q, %v; want %s, %q, %v", tt.why, addr, chain, known, tt.want, tt.chain, tt.known)
		}
	}
}

func TestTrustedMappedPrefix(t *testing.T) {
	p := newProxy(t, nil, sticky.Options{Trusted: prefixes("::ffff:10.0.0.0/104"), Health: unchecked})
	r := request("GET", "10.0.0.1:80")
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	if got := p.Client(r); got.String() != "203.0.113.9" {
		t.Errorf("client is %v: the prefix of mapped addresses does not count", got)
	}
}

// Whatever a client writes, the client is somebody at or right of what the
// trusted proxies wrote.
func FuzzClient(f *testing.F) {
	f.Add("1.1.1.1, 10.0.0.9", 0)
	f.Add("::ffff:1.2.3.4,[::1]:80,,", 1)
	f.Add("\t%,a:b:c]", 2)
	f.Fuzz(func(t *testing.T, forged string, hops int) {
		hops = max(0, hops%4)
		trusted := prefixes("10.0.0.0/8")
		const real = "203.0.113.9"
		addr, chain, known := sticky.ClientOf("10.0.0.1:80", []string{forged + ", " + real}, trusted, 0)
		if addr.String() != real || chain != real || !known {
			t.Errorf("%q: %v, %q, %v", forged, addr, chain, known)
		}
		addr, chain, known = sticky.ClientOf("10.0.0.1:80", []string{forged, real}, nil, 1)
		if addr.String() != real || chain != real || !known {
			t.Errorf("%q, one hop: %v, %q, %v", forged, addr, chain, known)
		}
		addr, _, known = sticky.ClientOf("192.0.2.1:80", []string{forged}, trusted, hops)
		if addr.String() != "192.0.2.1" || known {
			t.Errorf("%q from a stranger: %v, %v", forged, addr, known)
		}
		if addr, chain, _ = sticky.ClientOf("10.0.0.1:80", []string{forged}, trusted, hops); !addr.IsValid() || !strings.Contains(forged, chain) {
			t.Errorf("%q: %v, %q", forged, addr, chain)
		}
	})
}

// What is left of a Cookie header has every other cookie, in order, and none of
// the balancer's.
func FuzzCookie(f *testing.F) {
	f.Add("a=1; affinity=x; b=2")
	f.Add("affinity;;=;__Host-affinity=\"a;b\"")
	f.Fuzz(func(t *testing.T, line string) {
		pairs := func(lines ...string) (others []string, ours int) {
			for _, line := range lines {
				for part := range strings.SplitSeq(line, ";") {
					part = strings.Trim(part, " \t")
					switch name, _, _ := strings.Cut(part, "="); {
					case name == "affinity", name == "__Host-affinity":
						ours++
					case part != "":
						others = append(others, part)
					}
				}
			}
			return others, ours
		}
		before, _ := pairs(line)
		left := sticky.Strip([]string{line})
		after, ours := pairs(left...)
		if !slices.Equal(before, after) || strings.Contains(line, "affinity=") && ours > 0 {
			t.Errorf("%q becomes %q", line, left)
		}
		sticky.Look([]string{line}, "affinity")
	})
}
