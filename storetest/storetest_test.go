package storetest_test

import (
	"testing"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

func TestMemoryStore(t *testing.T) { storetest.Run(t, memory) }

func TestMemoryStoreOverHTTP(t *testing.T) { storetest.RunHTTP(t, memory) }

func memory(*testing.T) storetest.Backend {
	var clock storetest.Clock
	s := session.NewMemoryStore(&session.MemoryOptions{Now: clock.Now})
	return storetest.Backend{
		Open:    func() session.Store { return s },
		Advance: clock.Advance,
	}
}
