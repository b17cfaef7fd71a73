// Package simnet is being written.
package simnet
