package discover

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// cgroupfs makes and removes directories through the VFS, so inotify sees them,
// on v1 and v2. It reports no IN_DELETE_SELF and no IN_IGNORED for a removed
// cgroup (its inodes keep their link count): watches of removed ones have to be
// removed by hand, and until then pin the inode.
const (
	dirMask  = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW
	fileMask = unix.IN_MODIFY // kernfs_notify of cgroup.events
)

// event is a struct inotify_event (inotify(7)). The name lives in the buffer.
type event struct {
	wd   int32
	mask uint32
	name []byte
}

// nextEvent takes the first event off what was read:
//
//	int wd; u32 mask; u32 cookie; u32 len; char name[len]   (padded with NUL)
func nextEvent(b []byte) (e event, rest []byte, ok bool) {
	if len(b) < unix.SizeofInotifyEvent {
		return event{}, nil, false
	}
	e.wd = int32(binary.NativeEndian.Uint32(b))
	e.mask = binary.NativeEndian.Uint32(b[4:])
	size := int64(binary.NativeEndian.Uint32(b[12:]))
	b = b[unix.SizeofInotifyEvent:]
	if size > int64(len(b)) {
		return event{}, nil, false
	}
	e.name = b[:size]
	if i := bytes.IndexByte(e.name, 0); i >= 0 {
		e.name = e.name[:i]
	}
	return e, b[size:], true
}

// watchBudget is how many watches to take at most: half of what the user has,
// because the kubelet, systemd and everybody's tail -f live on the same number.
func watchBudget(procfs string) int {
	b, err := os.ReadFile(procfs + "/sys/fs/inotify/max_user_watches")
	if err == nil {
		if n, err := strconv.Atoi(string(bytes.TrimSpace(b))); err == nil && n >= 0 {
			return n / 2
		}
	}
	return 4096 // half of the kernel's default before 5.11
}
