// Package proof shows what becomes of sessions when nodes die, freeze, restart
// or lose their backup under load. It has nothing but tests: application nodes
// in processes of their own, that answer from session.Cached or from plain
// memory, behind the balancer of package sticky, HAProxy, nginx or Caddy; and
// users who write down what was acknowledged to them and compare it with what
// they are shown. This prints the table of the package's README:
//
//	go test -v -count 1 -run Proof ./sticky/internal/proof -table
//
// The configurations of the other balancers are those of docs/balancers.md.
package proof
