package configs

import "embed"

// Examples holds the example files: a node file of each role, two policies,
// devices, and lists. They are what the demo runs and what a new user copies.
// The country database that the policies name is not among them.
//
//go:embed *.yaml lists
var Examples embed.FS
