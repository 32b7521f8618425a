package servers_test

import (
	"net"
	"testing"

	"github.com/distsession/session/internal/servers"
)

func TestIgnite(t *testing.T) {
	c := servers.Ignite(t, 1, servers.IgniteOptions{})
	m := c.Members[0]
	for _, end := range []func(){m.Kill, func() { m.Stop(t) }} {
		conn, err := net.Dial("tcp", m.Addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		end()
		if conn, err := net.Dial("tcp", m.Addr); err == nil {
			conn.Close()
			t.Error("it answers after its end")
		}
		m.Restart(t)
	}
}
