// Package resctrl is the kernel's interface to the monitoring and allocation of
// caches and memory bandwidth (Documentation/filesystems/resctrl.rst): Intel RDT,
// AMD PQoS, Arm MPAM. Which of them it is does not matter: what a host can do is
// what the files below info/ say.
//
// [FS] finds and mounts the file system; a [Tree] is one mount of it; [Info] is
// what it can do; [Schemata] is what a control group may use. A [Group] reads what
// a group used. A [Watch] keeps the threads of one task in one group, and
// [Info.Plan] turns what is wanted of control groups into an ordered list of
// changes.
//
// Groups that this package makes are marked by [Prefix]; no other is ever removed,
// but by [Tree.RemoveAll].
package resctrl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Prefix is how the directories of our own groups begin.
const Prefix = "owca-"

// Name names a group: a control group, or a monitoring group in one. The zero
// Name is the default group, the root of the file system.
type Name struct {
	Control string // directory of the control group; "" = the default group
	Monitor string // directory below its mon_groups; "" = the control group itself
}

// Path returns the group's directory below the mount point: "", "gold",
// "mon_groups/x", "gold/mon_groups/x".
func (n Name) Path() string {
	switch {
	case n.Monitor == "":
		return n.Control
	case n.Control == "":
		return "mon_groups/" + n.Monitor
	}
	return n.Control + "/mon_groups/" + n.Monitor
}

// String is Path, with "/" for the default group.
func (n Name) String() string {
	if n == (Name{}) {
		return "/"
	}
	return n.Path()
}

// Ours says whether the group was made by this package: by this agent or one
// that ran before.
func (n Name) Ours() bool {
	if n.Monitor != "" {
		return strings.HasPrefix(n.Monitor, Prefix)
	}
	return strings.HasPrefix(n.Control, Prefix)
}

// Errors that callers tell apart with errors.Is; all come wrapped, in an [Error]
// where a file was used.
var (
	// ErrNotMounted: the kernel has resctrl, but it is not mounted.
	ErrNotMounted = errors.New("resctrl is not mounted")
	// ErrGone: the group was removed, or the file system was unmounted, perhaps
	// mounted anew, since it was opened.
	ErrGone = errors.New("gone")
	// ErrNoCLOSID: no more control groups can be made.
	ErrNoCLOSID = errors.New("no class of service (CLOSID) is free")
	// ErrNoRMID: no more monitoring groups can be made (nor control groups, which
	// need one, too).
	ErrNoRMID = errors.New("no monitoring id (RMID) is free")
	// ErrLimbo: none is free now, but some will be when the cache lines of removed
	// groups are gone, in seconds.
	ErrLimbo = fmt.Errorf("%w: some wait for their cache lines to be evicted", ErrNoRMID)
	// ErrInUse: another process has claimed it ([Tree.Claim]).
	ErrInUse = errors.New("in use")
	// ErrThisProcess is with ErrInUse where it is another Tree of this process that has the
	// claim.
	ErrThisProcess = errors.New("this process")
	// ErrReadBack: what was to be written was, only what is in effect now is not known.
	ErrReadBack = errors.New("written, but not read back")
)

// Error is an operation that the kernel refused.
type Error struct {
	Op   string // "mkdir", "rmdir", "rename", "write", "read", "open", "mount", "umount", "flock"
	Path string // the file, from the mount point on; the whole path where nothing is mounted
	// Err is the errno (golang.org/x/sys/unix.Errno), with one of the sentinel
	// errors above if it means that.
	Err error
	// Status is what info/last_cmd_status said of it, "" if nothing: "ok" and what
	// stood there before is nothing.
	Status string
	// Value is what was to be written, "" for other operations.
	Value string
}

// Error tells all of it in one line, quoted where it is not printable.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "resctrl: %s %s", e.Op, printable(e.Path))
	if e.Value != "" {
		fmt.Fprintf(&b, " %q", e.Value)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if e.Status != "" {
		fmt.Fprintf(&b, " (the kernel says: %s)", printable(e.Status))
	}
	return b.String()
}

// printable quotes what a terminal would obey or spoil: the names of groups are up to
// whoever makes them, and the kernel repeats what it was told.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(s)
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
