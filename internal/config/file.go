package config

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ReadFile returns the content of a configuration file that only root or the
// user of this process can have written: a regular file (symbolic links are
// followed) of at most 4 MiB, owned by one of them, not writable for others,
// and for its group only if that is root's. Everything is checked on the open
// file, which is then read.
//
// Where the file cannot be opened the error wraps that of [os.OpenFile].
func ReadFile(name string) ([]byte, error) {
	// Without O_NONBLOCK, opening a FIFO waits for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if what := untrusted(info, uint32(os.Geteuid())); what != "" {
		return nil, fmt.Errorf("%s: %s", name, what)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: the file has more than %d bytes, which is no configuration", name, maxSize)
	}
	return data, nil
}

// untrusted says why a file is not to be trusted by a process of user euid and
// what to do about it, or "".
func untrusted(info fs.FileInfo, euid uint32) string {
	mode := info.Mode()
	if !mode.IsRegular() {
		return "not a regular file"
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "its owner cannot be told"
	case st.Uid != 0 && st.Uid != euid:
		fix := fmt.Sprintf("chown %d", euid)
		if euid == 0 {
			fix = "chown root"
		}
		return fmt.Sprintf("it belongs to user %d, who could change it (expected root or user %d): %s %s",
			st.Uid, euid, fix, info.Name())
	case mode&0o002 != 0:
		return "everybody can write it: chmod go-w " + info.Name()
	case mode&0o020 != 0 && st.Gid != 0:
		return fmt.Sprintf("group %d can write it: chmod g-w %s", st.Gid, info.Name())
	}
	return ""
}
