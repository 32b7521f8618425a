// Package natsstore is being written.
package natsstore
