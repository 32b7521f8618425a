package sticky

import (
	"net/http"
	"net/netip"
	"strings"
)

// client returns the address of whoever sent the request, and what of
// X-Forwarded-For may be believed: the entries from the client's own on,
// without the peer's. known tells that the peer is a trusted proxy.
func (p *Proxy) client(r *http.Request) (addr netip.Addr, chain string, known bool) {
	return clientOf(r.RemoteAddr, r.Header["X-Forwarded-For"], p.o.Trusted, p.o.TrustedHops)
}

func clientOf(remote string, forwarded []string, trusted []netip.Prefix, hops int) (addr netip.Addr, chain string, known bool) {
	peer := parseAddr(remote)
	if hops == 0 && len(trusted) == 0 || len(trusted) > 0 && !contains(trusted, peer) {
		return peer, "", false
	}
	// More than one line is one list (RFC 9110, 5.3). The proxies nearest to us
	// wrote the last of them.
	list := ""
	switch len(forwarded) {
	case 0:
	case 1:
		list = forwarded[0]
	default:
		list = strings.Join(forwarded, ",")
	}
	addr, from := peer, len(list)
	for skipped := 1; ; skipped++ {
		end := from
		if skipped > 1 {
			end = from - 1 // the comma
		}
		if end <= 0 {
			break
		}
		start := strings.LastIndexByte(list[:end], ',') + 1
		a := parseAddr(strings.Trim(list[start:end], " \t"))
		if !a.IsValid() {
			break // whoever wrote that, the entry to the right of it is true
		}
		addr, from = a, start
		if hops > 0 && skipped == hops || len(trusted) > 0 && !contains(trusted, a) {
			return addr, strings.Trim(list[from:], " \t"), true
		}
	}
	if hops > 0 {
		// It passed fewer proxies than it must: it came by another way.
		return peer, "", len(trusted) > 0
	}
	return addr, strings.Trim(list[from:], " \t"), true
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// unmap turns prefixes of IPv4-mapped addresses into IPv4's, as addresses are.
func unmap(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out[i] = p
	}
	return out
}

// parseAddr reads an address with or without a port; the zero Addr if it is
// none.
func parseAddr(s string) netip.Addr {
	var a netip.Addr
	switch strings.Count(s, ":") {
	case 0:
		a, _ = netip.ParseAddr(s)
	case 1:
		ap, _ := netip.ParseAddrPort(s)
		a = ap.Addr()
	default:
		switch {
		case s[0] != '[':
			a, _ = netip.ParseAddr(s)
		case s[len(s)-1] == ']':
			a, _ = netip.ParseAddr(s[1 : len(s)-1])
		default:
			ap, _ := netip.ParseAddrPort(s)
			a = ap.Addr()
		}
	}
	return a.Unmap().WithZone("")
}
