package sticky

import (
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
)

// hopByHop are the fields of one connection (RFC 9110, 7.6.1), as ReverseProxy
// removes them.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// Whoever names a field in Connection has the next proxy remove it: Cookie, to
// sign somebody out; an X-Forwarded field, to hide behind the proxy. RFC 9110,
// 7.6.1, forbids to name fields that are meant for all recipients, so for these
// Connection is not obeyed, in requests and in answers.
var endToEnd = map[string]bool{
	"Authorization": true, "Cookie": true, "Set-Cookie": true, "Host": true, "Origin": true, "Referer": true, "User-Agent": true,
	"Cache-Control": true, "Expires": true, "Pragma": true, "Vary": true, "Age": true, "Date": true, "Etag": true, "Last-Modified": true,
	"Location": true, "Retry-After": true, "Allow": true, "Range": true, "Expect": true, "From": true, "Via": true,
	"Forwarded": true, "Idempotency-Key": true, "X-Request-Id": true, "Traceparent": true, "Tracestate": true, "Baggage": true,
	"Strict-Transport-Security": true, "Www-Authenticate": true, "Clear-Site-Data": true, "Server": true, "Link": true, "Refresh": true,
}

var endToEndPrefixes = []string{
	"X-Forwarded-", "X-Real-", "X-Auth-", "X-User-", "X-Csrf-", "X-Xsrf-", "X-Frame-", "X-Content-",
	"Content-", "Accept", "If-", "Sec-", "Access-Control-", "Cross-Origin-", "Referrer-", "Permissions-",
}

func protected(field string) bool {
	if endToEnd[field] {
		return true
	}
	for _, p := range endToEndPrefixes {
		if strings.HasPrefix(field, p) {
			return true
		}
	}
	return false
}

// connectionOptions calls f with each field that Connection names.
func connectionOptions(h http.Header, f func(field string)) {
	for _, line := range h["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if option = textproto.TrimString(option); option != "" {
				f(textproto.CanonicalMIMEHeaderKey(option))
			}
		}
	}
}

// cleanConnection takes out of an answer's Connection what it must not name,
// before ReverseProxy obeys it.
func cleanConnection(h http.Header) {
	if h["Connection"] == nil {
		return
	}
	var keep []string
	connectionOptions(h, func(field string) {
		if !protected(field) {
			keep = append(keep, field)
		}
	})
	if keep == nil {
		delete(h, "Connection")
		return
	}
	h["Connection"] = []string{strings.Join(keep, ", ")}
}

// removeHopByHop is for answers that ReverseProxy passes on untouched.
func removeHopByHop(h http.Header) {
	cleanConnection(h)
	connectionOptions(h, h.Del)
	for _, field := range hopByHop {
		delete(h, field)
	}
}

// rewrite makes the request to the node of the client's. ReverseProxy has
// removed the hop-by-hop fields and the main forwarding ones.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	connectionOptions(in.Header, func(field string) {
		if v := in.Header[field]; v != nil && protected(field) {
			out.Header[field] = append([]string(nil), v...)
		}
	})
	if len(out.Header["Cookie"]) > 0 {
		x.p.jar.strip(out.Header)
	}
	x.forward(in, out.Header)
	// As it came: the balancer does not read the query, so there is nothing that
	// it and the node could understand differently.
	out.URL.RawQuery = in.URL.RawQuery
	out.Host = in.Host
	// The server fills in the trailers when the body has been read.
	out.Trailer = in.Trailer
}

// Fields that applications believe, and anybody can send.
var forwarding = []string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
	"X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-Prefix", "X-Forwarded-Scheme", "X-Real-Ip", "X-Client-Ip",
	"X-Original-Forwarded-For",
}

// misspelled tells whether a field becomes a forwarding one where _ and - are
// made one letter, as CGI and what came of it do: WSGI, Rack, PHP.
func misspelled(field string) bool {
	if strings.IndexByte(field, '_') < 0 {
		return false
	}
	field = strings.ReplaceAll(field, "_", "-")
	return slices.ContainsFunc(forwarding, func(f string) bool { return strings.EqualFold(f, field) })
}

// forward sets the forwarding fields. Of a trusted proxy they are passed on,
// X-Forwarded-For from the client's address; of anybody else they are replaced.
func (x *exchange) forward(in *http.Request, out http.Header) {
	peer, ok := peerOf(in.RemoteAddr)
	for field := range out {
		if misspelled(field) { // a trusted proxy may have passed it on
			delete(out, field)
		}
	}
	if !x.known {
		for _, field := range forwarding {
			delete(out, field)
		}
	} else {
		for _, field := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
			if v := in.Header[field]; v != nil {
				out[field] = append([]string(nil), v...)
			}
		}
		delete(out, "Forwarded") // it would have to be trimmed, too
	}
	chain := peer
	if x.chain != "" {
		chain = x.chain + ", " + peer
	}
	delete(out, "X-Forwarded-For")
	if ok {
		out["X-Forwarded-For"] = []string{chain}
	}
	if out["X-Forwarded-Host"] == nil {
		out["X-Forwarded-Host"] = []string{in.Host}
	}
	if out["X-Forwarded-Proto"] == nil {
		proto := "http"
		if in.TLS != nil {
			proto = "https"
		}
		out["X-Forwarded-Proto"] = []string{proto}
	}
}

// peerOf is the address of the peer without its port.
func peerOf(remote string) (string, bool) {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "", false
	}
	host := remote[:strings.LastIndexByte(remote, ':')]
	if ap.Addr().Is4() {
		return host, true // no allocation
	}
	return ap.Addr().Unmap().WithZone("").String(), true
}

func isUpgrade(h http.Header) bool {
	if h["Upgrade"] == nil {
		return false
	}
	found := false
	connectionOptions(h, func(field string) { found = found || field == "Upgrade" })
	return found
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// An event stream never ends by itself, like an upgraded connection.
func acceptsEvents(h http.Header) bool {
	for _, v := range h["Accept"] {
		if strings.Contains(v, "text/event-stream") {
			return true
		}
	}
	return false
}

func isEvents(h http.Header) bool {
	t, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(textproto.TrimString(t), "text/event-stream")
}
