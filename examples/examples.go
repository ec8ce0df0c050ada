// Package examples holds configuration files of every shape. Each of them is
// decoded by a test of cmd/owca; automatic.yaml is what the agent uses when it
// is started without a configuration.
package examples

import "embed"

// FS has the files.
//
//go:embed *.yaml
var FS embed.FS

// Automatic is the configuration used when none is given.
//
//go:embed automatic.yaml
var Automatic []byte
