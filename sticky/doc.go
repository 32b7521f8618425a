// Package sticky is a load balancer for an application whose nodes keep
// something of each user in their own memory: an [http.Handler] that pins each
// user to one node, and moves only those whose node is gone.
//
//	proxy, err := sticky.New([]sticky.Node{
//		{ID: "a", URL: a}, // http://10.0.0.1:8080
//		{ID: "b", URL: b},
//	}, nil)
//	…
//	http.ListenAndServe(":80", proxy)
//
// It uses the standard library alone and needs no other package of this
// module. What it pins are users, not sessions: a session that shall survive
// its node is kept with session.Cached or in a shared store.
//
// # Affinity
//
// By cookie ([ByCookie], the default): the balancer's own cookie names the node
// by a keyed tag of its ID, 24 characters that tell no address and no order and
// cannot be made up. It is looked up in a table, replaced when it is unknown,
// and never reaches the node. A new user goes to a node by weighted chance.
//
// By address ([ByIP]) and by a key of the caller's ([ByKey]): rendezvous hashing.
// Adding or removing one of N nodes moves 1/N of the users, and nobody else.
// Several balancers agree without talking to each other. IPv6 counts by /64.
//
// The client's address is the peer's, unless Options.Trusted or TrustedHops says
// which proxies stand in front; see [Options].
//
// # Failure
//
// A node is out when its checks fail, when it refuses a connection, or when it
// lets several requests wait past HeaderTimeout. Its users go to the next
// node in their rank, and in the modes without a cookie come back when it does.
// In cookie mode they stay where they are; [Proxy.Rebalance] moves some.
//
// A request is sent again only if it never left, whatever its method, or if it
// is a GET, HEAD or OPTIONS without a body, or carries an Idempotency-Key and a
// body that can be replayed, and no byte of an answer came. Nothing else is ever
// sent twice. A node that dies in the middle of a body breaks the client's
// connection, so that half an answer is not taken for a whole one.
//
// Without any usable node the ones that are thought to be down are tried, and
// then the answer is 503 with Retry-After.
package sticky
