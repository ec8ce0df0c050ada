// Package decide has the allocators that are built in, one a file.
package decide
