package servers

import (
	"cmp"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	javaHint  = "install a Java runtime of version 17 or later (the package openjdk-17-jre-headless)"
	mavenHint = "install the package maven"
)

// mavenArtifact is a jar that Maven finds, with what it depends on.
type mavenArtifact struct {
	XMLName xml.Name `xml:"dependency"`
	Group   string   `xml:"groupId"`
	Name    string   `xml:"artifactId"`
	Version string   `xml:"version"`
}

// mavenJars returns a directory with the jars of a server written in Java. They
// are fetched once and kept in SERVERS_CACHE or, if that is not set, in the
// user's cache directory, under name, which has the version in it.
func mavenJars(t testing.TB, name string, artifacts ...mavenArtifact) string {
	t.Helper()
	user, err := os.UserCacheDir()
	cache := cmp.Or(os.Getenv("SERVERS_CACHE"), filepath.Join(user, "session-servers"))
	if err != nil && os.Getenv("SERVERS_CACHE") == "" {
		t.Fatalf("no place for jars; set SERVERS_CACHE: %v", err)
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	mvn := Require(t, "mvn", mavenHint)
	must(t, "jars", os.MkdirAll(cache, 0o755))
	tmp, err := os.MkdirTemp(cache, "fetch-")
	must(t, "jars", err)
	defer os.RemoveAll(tmp)
	pom, err := xml.Marshal(struct {
		XMLName      xml.Name        `xml:"http://maven.apache.org/POM/4.0.0 project"`
		Model        string          `xml:"modelVersion"`
		Group        string          `xml:"groupId"`
		Name         string          `xml:"artifactId"`
		Version      string          `xml:"version"`
		Packaging    string          `xml:"packaging"`
		Dependencies []mavenArtifact `xml:"dependencies>dependency"`
	}{Model: "4.0.0", Group: "servers", Name: name, Version: "1", Packaging: "pom", Dependencies: artifacts})
	must(t, "pom.xml", err)
	must(t, "pom.xml", os.WriteFile(filepath.Join(tmp, "pom.xml"), pom, 0o600))
	jars := filepath.Join(tmp, "jars")
	cmd := exec.Command(mvn, "-B", "-ntp", "-q", "-f", filepath.Join(tmp, "pom.xml"),
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+jars)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fetch the jars of %s: %v\n%s", name, err, out)
	}
	// Another test binary may have been quicker; its jars are the same.
	if err := os.Rename(jars, dir); err != nil {
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("keep the jars of %s: %v", name, err)
		}
	}
	return dir
}

// javaArgs begin the command line of a small server on a busy machine.
func javaArgs(java string, classpath ...string) []string {
	return []string{
		java, "-Xms32m", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true",
		"-cp", strings.Join(classpath, string(filepath.ListSeparator)),
	}
}
