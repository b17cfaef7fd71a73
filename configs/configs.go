// Package configs is being written.
package configs
