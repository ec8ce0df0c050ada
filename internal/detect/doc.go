// Package detect has the detectors that are built in, one a file.
package detect
