// Package session is HTTP sessions that follow the user from node to node: one
// small Store interface, one net/http middleware, and a URL that says where
// sessions are kept.
//
//	store, err := session.Open(ctx, "redis://localhost:6379")
//	sessions, err := session.New(store, nil)
//	http.ListenAndServe(addr, sessions.Handler(mux))
//
// A handler asks for the session of its request and for typed values in it:
//
//	var cart = session.NewKey[[]string]("cart")
//
//	s, err := session.From(r.Context())
//	cart.Update(s, func(items []string) []string { return append(items, "tea") })
//
// Nothing is loaded before the first From, and nothing is written that did not
// change. Changes are saved once, before the response's header is sent, by
// compare-and-set: of two requests that change different values at once, both
// survive, and a request that is still running at sign-out cannot bring the
// session back.
package session
