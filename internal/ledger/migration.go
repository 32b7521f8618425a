package ledger

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/distsession/session"
)

// Migration swaps the store old for new while it is in use, as the nodes of a
// rolling deploy do: first those that do not migrate yet beside those that have
// new behind old, then these beside those that have old behind new. Meanwhile
// sessions count, begin and end; no addition may be lost, nobody may be signed
// out, and nobody may come back. At the end everybody is in new.
func Migration(t *testing.T, old, new session.Store, rounds int) {
	t.Helper()
	first, second := migrating(t, old, new), migrating(t, new, old)
	fleet := &fleet{nodes: []session.Store{old, first}}
	l := Start(t, fleet, 4, 16)
	for i := range rounds {
		if i == rounds/3 {
			fleet.deploy(first, second)
		}
		endWhileUsed(t, fleet.all(), i)
	}
	fleet.deploy(second)
	l.Progress()
	if lost := l.Check(); lost != 0 {
		t.Errorf("%d acknowledged additions were lost", lost)
	}
	_, scans := session.As[session.Scanner](old)
	if _, err := session.MoveAll(t.Context(), second); scans && err != nil {
		t.Error(err)
	}
	for _, rec := range l.Records {
		if !listed(t, second, rec) || !listed(t, new, rec) {
			t.Errorf("session %s is not in the new store's list", rec.ID)
		}
	}
}

func migrating(t *testing.T, to, from session.Store) session.Store {
	t.Helper()
	s, err := session.Migrating(to, from)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listed(t *testing.T, s session.Store, rec *session.Record) bool {
	t.Helper()
	for info, err := range session.List(t.Context(), s, rec.User) {
		if errors.Is(err, errors.ErrUnsupported) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		if info.ID == rec.ID {
			return true
		}
	}
	return false
}

// endWhileUsed makes sessions of one user on the nodes, and ends them on one
// while requests on all of them use them.
func endWhileUsed(t *testing.T, nodes []session.Store, round int) {
	t.Helper()
	const user = "bob"
	var tokens []string
	for i := range 4 {
		_, token := create(t, nodes[(round+i)%len(nodes)], user)
		tokens = append(tokens, token)
	}
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, token := range tokens {
		for _, node := range nodes {
			wg.Go(func() {
				<-start
				for range 2 {
					if err := addOne(t.Context(), node, token); err != nil && !errors.Is(err, session.ErrNotFound) {
						t.Errorf("while it ends: %v", err)
					}
				}
			})
		}
	}
	wg.Go(func() {
		<-start
		node := nodes[round%len(nodes)]
		if round%2 == 0 {
			_, err := session.DeleteUser(t.Context(), node, user, "")
			if err == nil {
				return
			}
			if !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("DeleteUser: %v", err)
			}
		}
		for _, token := range tokens {
			if err := node.Delete(t.Context(), session.ID(token)); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
	})
	close(start)
	wg.Wait()
	for _, token := range tokens {
		for _, node := range nodes {
			if rec, err := node.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
				t.Fatalf("round %d: a session that was ended is back: %+v, %v", round, rec, err)
			}
		}
	}
}

// fleet is a store whose loads go to one node after the other; what one has
// loaded it saves.
type fleet struct {
	mu    sync.Mutex
	nodes []session.Store
	next  int
}

// deploy puts these nodes in the place of those that were there; requests that
// are under way end where they began.
func (f *fleet) deploy(nodes ...session.Store) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = nodes
}

func (f *fleet) all() []session.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.nodes)
}

func (f *fleet) node() session.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return f.nodes[f.next%len(f.nodes)]
}

// loadedBy is the Tag of a record that a node has loaded.
type loadedBy struct {
	node session.Store
	tag  any
}

func (f *fleet) Load(ctx context.Context, token string) (*session.Record, error) {
	node := f.node()
	rec, err := node.Load(ctx, token)
	if err != nil {
		return nil, err
	}
	rec.Tag = loadedBy{node, rec.Tag}
	return rec, nil
}

func (f *fleet) Save(ctx context.Context, rec *session.Record) (string, error) {
	loaded, ok := rec.Tag.(loadedBy)
	if !ok {
		return f.node().Save(ctx, rec)
	}
	mine := *rec
	mine.Tag = loaded.tag
	return loaded.node.Save(ctx, &mine)
}

func (f *fleet) Delete(ctx context.Context, id string) error { return f.node().Delete(ctx, id) }
