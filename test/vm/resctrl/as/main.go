// Command as runs a command as an ordinary user with some capabilities, as a
// systemd unit with User= and AmbientCapabilities= does.
//
//	as UID dac_override,setuid COMMAND [ARG...]
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	// Capabilities are a thread's, and execve takes those of the one that calls it.
	runtime.LockOSThread()
	fmt.Fprintln(os.Stderr, "as:", execute(os.Args[1:]))
	os.Exit(126)
}

func execute(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: as UID CAPABILITY,... COMMAND [ARG...]")
	}
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	var mask uint32
	var list []uintptr
	for name := range strings.SplitSeq(args[1], ",") {
		c, ok := map[string]uintptr{"": 0, "dac_override": unix.CAP_DAC_OVERRIDE, "setuid": unix.CAP_SETUID}[name]
		if !ok {
			return fmt.Errorf("unknown capability %q", name)
		}
		if name != "" {
			mask |= 1 << c
			list = append(list, c)
		}
	}
	path, err := exec.LookPath(args[2])
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_KEEPCAPS: %w", err)
	}
	if err := unix.Setgroups(nil); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := unix.Setresgid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := unix.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: mask, Permitted: mask, Inheritable: mask}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	for _, c := range list {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("PR_CAP_AMBIENT_RAISE %d: %w", c, err)
		}
	}
	return fmt.Errorf("%s: %w", path, unix.Exec(path, args[2:], os.Environ()))
}
