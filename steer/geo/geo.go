// Package geo is being written.
package geo
