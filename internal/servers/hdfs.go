package servers

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

// HDFSUser is the superuser of the HDFS that HDFS starts.
const HDFSUser = "hdfs"

const (
	hdfsVersion   = "3.5.0"
	hdfsNamenode  = "org.apache.hadoop.hdfs.server.namenode.NameNode"
	hdfsDatanode  = "org.apache.hadoop.hdfs.server.datanode.DataNode"
	hdfsAdmin     = "org.apache.hadoop.hdfs.tools.DFSAdmin"
	hdfsStartTime = 90 * time.Second
)

// HDFSServers are a namenode and its datanodes. Blocks are kept twice. A
// datanode that has been silent for three seconds is offered to writers no more
// while there are others, and is dead after eight.
type HDFSServers struct {
	Namenode  *HDFSDaemon
	Datanodes []*HDFSDaemon

	dir, jars, java string
	http            string // address of the namenode's pages
	conf            map[string]string
	properties      []string // of the Java system
}

// HDFSDaemon is a namenode or a datanode. After Kill, Restart starts it again.
type HDFSDaemon struct {
	*Process
	Addr string // where clients connect to
}

// HDFS starts a namenode and n datanodes, and waits until files can be written.
func HDFS(t testing.TB, n int) *HDFSServers {
	t.Helper()
	h := &HDFSServers{dir: t.TempDir(), properties: []string{"-DHADOOP_USER_NAME=" + HDFSUser}}
	h.start(t, n)
	return h
}

func hadoop(name string) mavenArtifact {
	return mavenArtifact{Group: "org.apache.hadoop", Name: name, Version: hdfsVersion}
}

func (h *HDFSServers) start(t testing.TB, n int) {
	t.Helper()
	h.java = Require(t, "java", javaHint)
	h.jars = mavenJars(t, "hdfs-"+hdfsVersion, hadoop("hadoop-common"), hadoop("hadoop-hdfs"), hadoop("hadoop-hdfs-client"))
	// The daemons do not start without a place for their web pages.
	for _, web := range []string{"hdfs", "datanode"} {
		must(t, "webapps", os.MkdirAll(filepath.Join(h.dir, "classpath", "webapps", web), 0o755))
	}
	local := func() string { return "127.0.0.1:" + FreePort(t) }
	h.Namenode, h.http = &HDFSDaemon{Addr: local()}, local()
	h.configure(t, "namenode", nil)
	format := exec.Command(h.java, append(h.args("namenode", hdfsNamenode), "-format", "-nonInteractive")[1:]...)
	format.SysProcAttr = sysProcAttr()
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("format the namenode: %v\n%s", err, out)
	}
	h.Namenode.Process = start(t, h.dir, h.args("namenode", hdfsNamenode)...)
	for i := range n {
		name := "datanode" + strconv.Itoa(i)
		d := &HDFSDaemon{Addr: local()}
		h.configure(t, name, map[string]string{
			"dfs.datanode.address":      d.Addr,
			"dfs.datanode.http.address": local(),
			"dfs.datanode.ipc.address":  local(),
			"dfs.datanode.data.dir":     "file://" + filepath.Join(h.dir, name),
		})
		d.Process = start(t, h.dir, h.args(name, hdfsDatanode)...)
		h.Datanodes = append(h.Datanodes, d)
	}
	h.WaitReady(t)
}

// configure writes the configuration of one daemon.
func (h *HDFSServers) configure(t testing.TB, name string, more map[string]string) {
	t.Helper()
	conf := map[string]string{
		"fs.defaultFS":               "hdfs://" + h.Namenode.Addr,
		"hadoop.tmp.dir":             filepath.Join(h.dir, "tmp"),
		"dfs.namenode.rpc-address":   h.Namenode.Addr,
		"dfs.namenode.http-address":  h.http,
		"dfs.namenode.name.dir":      "file://" + filepath.Join(h.dir, "name"),
		"dfs.replication":            "2",
		"dfs.blocksize":              strconv.Itoa(16 << 20),
		"dfs.namenode.handler.count": "8",
		// Out of safe mode as soon as the blocks are there.
		"dfs.namenode.safemode.extension": "0",
		// Dead after 2 × recheck + 10 × heartbeat, by default 10.5 minutes.
		"dfs.heartbeat.interval":                                 "1",
		"dfs.namenode.heartbeat.recheck-interval":                "1000",
		"dfs.namenode.stale.datanode.interval":                   "3000",
		"dfs.namenode.avoid.write.stale.datanode":                "true",
		"dfs.namenode.avoid.read.stale.datanode":                 "true",
		"dfs.namenode.datanode.registration.ip-hostname-check":   "false",
		"dfs.datanode.scan.period.hours":                         "-1",
		"ipc.client.connect.retry.interval":                      "100",
		"ipc.client.connect.max.retries":                         "600",
		"dfs.namenode.redundancy.interval.seconds":               "1s",
		"dfs.namenode.replication.max-streams":                   "8",
		"dfs.namenode.replication.work.multiplier.per.iteration": "8",
	}
	maps.Copy(conf, h.conf)
	maps.Copy(conf, more)
	type property struct {
		Name  string `xml:"name"`
		Value string `xml:"value"`
	}
	var properties []property
	for _, name := range slices.Sorted(maps.Keys(conf)) {
		properties = append(properties, property{name, conf[name]})
	}
	text, err := xml.Marshal(struct {
		XMLName    xml.Name   `xml:"configuration"`
		Properties []property `xml:"property"`
	}{Properties: properties})
	must(t, "hdfs-site.xml", err)
	dir := filepath.Join(h.dir, "conf-"+name)
	must(t, "conf", os.MkdirAll(dir, 0o755))
	for file, text := range map[string]string{
		"core-site.xml": string(text),
		"hdfs-site.xml": string(text),
		"log4j.properties": "log4j.rootLogger=WARN, out\n" +
			"log4j.appender.out=org.apache.log4j.ConsoleAppender\n" +
			"log4j.appender.out.layout=org.apache.log4j.PatternLayout\n" +
			"log4j.appender.out.layout.ConversionPattern=%d{HH:mm:ss.SSS} %-5p %c{1} %m%n\n",
	} {
		must(t, file, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
}

// args are the command line of a program with the configuration of a daemon.
func (h *HDFSServers) args(name, class string) []string {
	args := javaArgs(h.java, filepath.Join(h.dir, "conf-"+name), filepath.Join(h.dir, "classpath"), filepath.Join(h.jars, "*"))
	return slices.Concat(args, h.properties, []string{"-Dhadoop.home.dir=" + h.dir, class})
}

// Restart starts daemons again after Kill, and waits until all is well.
func (h *HDFSServers) Restart(t testing.TB, daemons ...*HDFSDaemon) {
	t.Helper()
	for _, d := range daemons {
		d.run(t)
	}
	h.WaitReady(t)
}

// WaitReady waits until all daemons listen, and the namenode is out of safe mode
// and has heard of all datanodes a moment ago.
func (h *HDFSServers) WaitReady(t testing.TB) {
	t.Helper()
	Wait(t, "hdfs at "+h.Namenode.Addr, hdfsStartTime, func(ctx context.Context) error {
		for _, d := range append([]*HDFSDaemon{h.Namenode}, h.Datanodes...) {
			select {
			case <-d.done:
				t.Fatalf("a daemon of HDFS has ended:\n%s", d.out.tail(2048))
			default:
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.Addr)
			if err != nil {
				return err
			}
			conn.Close()
		}
		s, err := h.state(ctx)
		if err == nil && (s.State != "Operational" || s.Live != len(h.Datanodes) || s.Stale > 0) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

// hdfsState is what the namenode tells of itself.
type hdfsState struct {
	State string `json:"FSState"`
	Live  int    `json:"NumLiveDataNodes"`
	Stale int    `json:"NumStaleDataNodes"`
}

func (h *HDFSServers) state(ctx context.Context) (hdfsState, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.http+"/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState", nil)
	if err != nil {
		return hdfsState{}, err
	}
	r.Close = true // no connection outlives the daemon
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return hdfsState{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return hdfsState{}, err
	}
	var beans struct {
		Beans []hdfsState `json:"beans"`
	}
	if err := json.Unmarshal(text, &beans); err != nil || len(beans.Beans) != 1 {
		return hdfsState{}, errors.Join(errors.New("the namenode does not tell its state yet"), err)
	}
	return beans.Beans[0], nil
}

// Admin runs a command of dfsadmin, such as "-setQuota", "100", "/folder".
func (h *HDFSServers) Admin(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(h.java, append(h.args("namenode", hdfsAdmin), args...)[1:]...)
	cmd.SysProcAttr = sysProcAttr()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dfsadmin %v: %v\n%s", args, err, out)
	}
}
