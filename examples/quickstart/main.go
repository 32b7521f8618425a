// Quickstart is a small tea shop whose sessions really work. Start it, open
// http://localhost:8080 and look at what the page says about its session:
//
//	go run ./examples/quickstart
//
// It keeps sessions in memory. With a store that several processes can reach,
// two of them share their sessions:
//
//	go run ./examples/quickstart -addr localhost:8080 -store redis://localhost:6379
//	go run ./examples/quickstart -addr localhost:8081 -store redis://localhost:6379
//
// The application is in ../internal/shop: shop.go has the manager, the keys
// and the cart, account.go has signing in and out.
package main

import (
	"os"

	"github.com/distsession/session/examples/internal/shop"
)

func main() { os.Exit(shop.Main()) }
