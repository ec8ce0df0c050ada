package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Capabilities is a set of capabilities, by the bits of
// include/uapi/linux/capability.h, which are unix.CAP_….
type Capabilities uint64

// Has says whether the set contains a capability.
func (c Capabilities) Has(capability int) bool { return c>>capability&1 != 0 }

// Names returns the names of the set's members, as capabilities(7) has them in
// lower case, in the order of their bits.
func (c Capabilities) Names() []string {
	var names []string
	for bit := range 64 {
		if c.Has(bit) {
			names = append(names, capabilityName(bit))
		}
	}
	return names
}

// String returns the names with commas between them.
func (c Capabilities) String() string { return strings.Join(c.Names(), ",") }

// Capabilities returns what the caller may do now: CapEff of
// /proc/self/status, which is that of the main thread.
func (fs FS) Capabilities() (Capabilities, error) {
	name := fs.path("/proc/self/status")
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	c, err := parseCapabilities(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// parseCapabilities parses /proc/PID/status (proc_pid_status(5)):
//
//	CapEff:	000001fffeffffff
func parseCapabilities(b []byte) (Capabilities, error) {
	for {
		line, rest, ok := cutLine(b)
		if !ok {
			return 0, fmt.Errorf("no line CapEff")
		}
		b = rest
		if hex, ok := bytes.CutPrefix(line, []byte("CapEff:\t")); ok {
			n, err := strconv.ParseUint(string(hex), 16, 64)
			if err != nil || len(hex) != 16 {
				return 0, malformed(line)
			}
			return Capabilities(n), nil
		}
	}
}

func capabilityName(bit int) string {
	names := [...]string{
		"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
		"setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
		"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
		"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
		"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
		"checkpoint_restore",
	}
	if bit < len(names) {
		return "cap_" + names[bit]
	}
	return "cap_" + strconv.Itoa(bit) // as capsh prints what it does not know
}
