package hazelcaststore_test

import (
	"testing"

	"github.com/distsession/session/hazelcaststore"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/internal/servers"
	"github.com/distsession/session/storetest"
)

func TestMain(m *testing.M) { ledger.Main(m) }

func TestHazelcast(t *testing.T) {
	cluster := servers.Hazelcast(t, 2)
	addrs := cluster.Addrs()
	opts := hazelcaststore.Options{Cluster: cluster.Cluster}
	t.Run("every promise", func(t *testing.T) { storetest.Run(t, onMembers(addrs, opts)) })
	t.Run("over HTTP", func(t *testing.T) { storetest.RunHTTP(t, onMembers(addrs, opts)) })
	t.Run("Check", func(t *testing.T) {
		if err := newStore(t, addrs, opts).Check(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
