//go:build race

package failures_test

func init() { raced = true }
