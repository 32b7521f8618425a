package servers_test

import (
	"testing"
	"time"

	"github.com/distsession/session/internal/servers"
)

func TestHDFSServers(t *testing.T) {
	at := time.Now()
	lap := func(what string) { t.Logf("%s: %v", what, time.Since(at).Round(time.Millisecond)); at = time.Now() }
	h := servers.HDFS(t, 2)
	lap("start")
	h.Namenode.Kill()
	h.Restart(t, h.Namenode)
	lap("namenode again")
	h.Datanodes[1].Kill()
	h.Restart(t, h.Datanodes[1])
	lap("datanode again")
	h.Admin(t, "-safemode", "get")
	lap("dfsadmin")
}

func TestHDFSKerberosServers(t *testing.T) {
	at := time.Now()
	servers.HDFSKerberos(t, "privacy", "app")
	t.Logf("start: %v", time.Since(at).Round(time.Millisecond))
}
