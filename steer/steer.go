// Package steer keeps which name stands behind which label. (Replaced by its owner.)
package steer
