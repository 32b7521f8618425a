package sticky

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// counters of a node.
type counters struct {
	requests, pinned, failovers, retries, replays, refused, overflows, failures, movedAway atomic.Int64
}

// totals are what no node is concerned with.
type totals struct {
	requests, unserved, canceled, unknownCookies, oldCookies, cookiesSet, overBudget atomic.Int64
}

// Status is what the proxy counted since it was made.
type Status struct {
	Requests       int64        `json:"requests"`        // all
	InFlight       int64        `json:"in_flight"`       // now
	Unserved       int64        `json:"unserved"`        // 503: no node took them
	Canceled       int64        `json:"canceled"`        // the client went before an answer
	RefusedCookies int64        `json:"refused_cookies"` // affinity cookies that no node is known by: forged, of a removed node, of a dropped key
	OldCookies     int64        `json:"old_cookies"`     // of a key that is not the newest, obeyed and replaced
	CookiesSet     int64        `json:"cookies_set"`     // new users, and those who moved
	OverBudget     int64        `json:"over_budget"`     // not sent again because Retry.Budget was spent
	Nodes          []NodeStatus `json:"nodes"`
}

// NodeStatus is a node's part of it.
type NodeStatus struct {
	ID       string    `json:"id"`
	URL      string    `json:"url"`
	Weight   float64   `json:"weight"`
	State    string    `json:"state"`            // up, starting, new, leaving, down, keeping, draining
	Since    time.Time `json:"since"`            // of its health
	Reason   string    `json:"reason,omitempty"` // of its health
	Until    time.Time `json:"until,omitzero"`   // of keeping
	InFlight int64     `json:"in_flight"`        // upgraded connections among them
	Upgraded int64     `json:"upgraded"`         // and event streams

	Requests  int64 `json:"requests"`   // sent there
	Pinned    int64 `json:"pinned"`     // because the cookie named it
	Failovers int64 `json:"failovers"`  // because another node, where they belong, did not take or answer them
	Retries   int64 `json:"retries"`    // that it did not answer, and another node got
	Replays   int64 `json:"replays"`    // sent there once more: the kept connection had died
	Refused   int64 `json:"refused"`    // connections
	Overflows int64 `json:"overflows"`  // that MaxInFlight sent elsewhere
	Failures  int64 `json:"failures"`   // answered 502 or 504 for it
	MovedAway int64 `json:"moved_away"` // users that Rebalance moved
}

// Status returns the nodes, in their order, and what was counted.
func (p *Proxy) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		Requests: p.total.requests.Load(), InFlight: p.inFlight.Load(), Unserved: p.total.unserved.Load(),
		Canceled: p.total.canceled.Load(), RefusedCookies: p.total.unknownCookies.Load(), OldCookies: p.total.oldCookies.Load(),
		CookiesSet: p.total.cookiesSet.Load(), OverBudget: p.total.overBudget.Load(),
		Nodes: make([]NodeStatus, 0, len(p.order)),
	}
	for _, n := range p.order {
		c := &n.count
		s.Nodes = append(s.Nodes, NodeStatus{
			ID: n.id, URL: n.where.Load().String(), Weight: n.weight, State: n.state(), Since: n.since, Reason: n.reason, Until: n.until,
			InFlight: n.inFlight.Load(), Upgraded: n.upgraded.Load(), Requests: c.requests.Load(), Pinned: c.pinned.Load(),
			Failovers: c.failovers.Load(), Retries: c.retries.Load(), Replays: c.replays.Load(), Refused: c.refused.Load(),
			Overflows: c.overflows.Load(), Failures: c.failures.Load(), MovedAway: c.movedAway.Load(),
		})
	}
	return s
}

func (n *node) state() string {
	switch {
	case n.drain == drainMove:
		return "draining"
	case n.health == healthDown:
		return "down"
	case n.health == healthLeaving:
		return "leaving"
	case n.health == healthNew:
		return "new"
	case n.drain == drainKeep:
		return "keeping"
	case n.ramp != nil:
		return "starting"
	}
	return "up"
}

// String is the Status as JSON, which makes the Proxy an expvar.Var:
//
//	expvar.Publish("sticky", proxy)
func (p *Proxy) String() string {
	b, err := json.Marshal(p.Status())
	if err != nil {
		return strconv.Quote(err.Error())
	}
	return string(b)
}

// Metrics serves the Status in Prometheus' text format, version 0.0.4.
func (p *Proxy) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		io.WriteString(w, prometheus(p.Status()))
	})
}

func prometheus(s Status) string {
	var b strings.Builder
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	for _, m := range []struct {
		name, kind, help string
		value            int64
	}{
		{"sticky_requests_total", "counter", "Requests received.", s.Requests},
		{"sticky_requests_in_flight", "gauge", "Requests in flight.", s.InFlight},
		{"sticky_unserved_total", "counter", "Requests that no node took (503).", s.Unserved},
		{"sticky_canceled_total", "counter", "Requests whose client went before an answer.", s.Canceled},
		{"sticky_cookies_refused_total", "counter", "Affinity cookies that name no node.", s.RefusedCookies},
		{"sticky_cookies_old_total", "counter", "Affinity cookies of an older key, obeyed and replaced.", s.OldCookies},
		{"sticky_cookies_set_total", "counter", "Affinity cookies set.", s.CookiesSet},
		{"sticky_retries_refused_total", "counter", "Requests not sent again because the budget was spent.", s.OverBudget},
	} {
		family(m.name, m.kind, m.help)
		fmt.Fprintf(&b, "%s %d\n", m.name, m.value)
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(*NodeStatus) int64
	}{
		{"sticky_node_requests_total", "counter", "Requests sent to the node.", func(n *NodeStatus) int64 { return n.Requests }},
		{"sticky_node_pinned_total", "counter", "Requests sent to the node because the cookie named it.", func(n *NodeStatus) int64 { return n.Pinned }},
		{"sticky_node_failovers_total", "counter", "Requests sent to the node in place of another.", func(n *NodeStatus) int64 { return n.Failovers }},
		{"sticky_node_retries_total", "counter", "Requests that the node did not answer and another got.", func(n *NodeStatus) int64 { return n.Retries }},
		{"sticky_node_replays_total", "counter", "Requests sent to the node once more because the kept connection had died.", func(n *NodeStatus) int64 { return n.Replays }},
		{"sticky_node_refused_total", "counter", "Connections that the node refused.", func(n *NodeStatus) int64 { return n.Refused }},
		{"sticky_node_overflows_total", "counter", "Requests that the cap sent elsewhere.", func(n *NodeStatus) int64 { return n.Overflows }},
		{"sticky_node_failures_total", "counter", "Requests answered 502 or 504 for the node.", func(n *NodeStatus) int64 { return n.Failures }},
		{"sticky_node_moved_away_total", "counter", "Users moved away by rebalancing.", func(n *NodeStatus) int64 { return n.MovedAway }},
		{"sticky_node_in_flight", "gauge", "Requests in flight on the node.", func(n *NodeStatus) int64 { return n.InFlight }},
		{"sticky_node_upgraded", "gauge", "Upgraded connections and event streams on the node.", func(n *NodeStatus) int64 { return n.Upgraded }},
	} {
		family(m.name, m.kind, m.help)
		for i := range s.Nodes {
			fmt.Fprintf(&b, "%s{node=\"%s\"} %d\n", m.name, label(s.Nodes[i].ID), m.value(&s.Nodes[i]))
		}
	}
	family("sticky_node_weight", "gauge", "The node's weight.")
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "sticky_node_weight{node=\"%s\"} %s\n", label(n.ID), strconv.FormatFloat(n.Weight, 'g', -1, 64))
	}
	family("sticky_node_state", "gauge", "1 for the state that the node is in.")
	for _, n := range s.Nodes {
		for _, state := range states {
			fmt.Fprintf(&b, "sticky_node_state{node=\"%s\",state=\"%s\"} %d\n", label(n.ID), state, btoi(n.State == state))
		}
	}
	return b.String()
}

var states = []string{"up", "starting", "new", "leaving", "down", "keeping", "draining"}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label escapes a label's value.
func label(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "\uFFFD"))
}
