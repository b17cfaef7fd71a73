// Package list is being written.
package list
