// Everywhere is the quickstart's tea shop with every backend that there is: the
// imports are all that makes a store's URL known.
//
//	cd examples/everywhere
//	go run . -store 'sqlite:sessions.db'
//	go run . -store 'file:///var/lib/sessions?create=true'
//
// It is a module of its own, so that the other examples, and your programs, are
// built without the clients of backends that they do not use.
package main

import (
	"os"

	"github.com/distsession/session/examples/internal/shop"
	_ "github.com/distsession/session/filestore"
	_ "github.com/distsession/session/hazelcaststore"
	_ "github.com/distsession/session/hdfsstore"
	_ "github.com/distsession/session/ignitestore"
	_ "github.com/distsession/session/memcachedstore"
	_ "github.com/distsession/session/natsstore"
	_ "github.com/distsession/session/sqlstore"
)

func init() {
	shop.Examples = append(shop.Examples, []shop.Example{
		{URL: "sqlite:sessions.db", About: "a file on this machine, shared by its processes"},
		{URL: "postgres://user@localhost/db?password=env:PGPASSWORD&migrate=true", About: "PostgreSQL"},
		{URL: "mariadb://user@localhost/db?password=env:DB_PASSWORD&migrate=true", About: "MariaDB, or MySQL with mysql://"},
		{URL: "memcached://h1:11211,h2:11211", About: "memcached, which forgets when it restarts"},
		{URL: "file:///srv/sessions?create=true", About: "a folder, on this machine or shared by several"},
		{URL: "hazelcast://h1:5701,h2:5701/sessions?cluster=dev", About: "Hazelcast, in the memory of its members"},
		{URL: "hdfs://namenode:8020/sessions?user=app", About: "HDFS"},
		{URL: "nats+embedded:?dir=sessions", About: "in this process, over restarts; three such nodes replicate: see natsstore"},
		{URL: "nats://h1:4222,h2:4222", About: "a NATS cluster"},
		{URL: "ignite://h1:10800,h2:10800/sessions", About: "Apache Ignite, a grid in memory"},
	}...)
}

func main() { os.Exit(shop.Main()) }
