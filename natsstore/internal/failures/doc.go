// Package failures holds the tests of what a cluster of natsstore nodes does
// when nodes are stopped, killed, paused, cut off and wiped: three processes,
// each a voter with an HTTP application, under load from clients that keep
// account of every acknowledgement.
//
//	go test -v . | grep '^|'
//
// prints a table whose rows are those of the module's README, with more columns.
package failures
