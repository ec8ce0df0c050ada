package proc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// SelfStat is what the calling process uses.
type SelfStat struct {
	CPU      Count // user and system time, ns (getrusage(2))
	Resident Count // bytes (/proc/self/statm)
	Files    Count // open file descriptors (/proc/self/fd), the two of Self included
	FilesMax Count // most of them (RLIMIT_NOFILE); absent: no limit
}

// Self reads what the calling process itself uses.
type Self struct {
	statm, fds file
	dirent     bool // fds has to be counted entry by entry
	usage      unix.Rusage
	stat       unix.Stat_t
	limit      unix.Rlimit
	buf        []byte
}

// NewSelf returns a Self. Nothing is opened before the first Read.
func (fs FS) NewSelf() *Self {
	return &Self{
		statm: file{path: fs.path("/proc/self/statm"), whole: true, must: true},
		fds:   file{path: fs.path("/proc/self/fd"), must: true},
	}
}

// Close closes the files. A later Read opens them again.
func (s *Self) Close() error {
	s.statm.close()
	s.fds.close()
	return nil
}

// Read reads everything into r. Errors of its parts are joined; the rest of r
// is valid.
func (s *Self) Read(r *SelfStat) error {
	*r = SelfStat{}
	var errUsage, errStatm, errFiles, errLimit error
	if errUsage = unix.Getrusage(unix.RUSAGE_SELF, &s.usage); errUsage == nil {
		r.CPU = Count{uint64(s.usage.Utime.Nano() + s.usage.Stime.Nano()), true}
	}
	b, errStatm := s.statm.read(&s.buf)
	if errStatm == nil {
		pages, err := parseResident(b)
		if errStatm = err; err == nil {
			r.Resident = Count{pages * uint64(unix.Getpagesize()), true}
		}
	}
	var files uint64
	if files, errFiles = s.countFiles(); errFiles == nil {
		r.Files = Count{files, true}
	}
	if errLimit = unix.Getrlimit(unix.RLIMIT_NOFILE, &s.limit); errLimit == nil && s.limit.Cur != unix.RLIM_INFINITY {
		r.FilesMax = Count{s.limit.Cur, true}
	}
	return errors.Join(errUsage, errStatm, errFiles, errLimit)
}

// countFiles counts the entries of /proc/self/fd. Since Linux 6.2 that is the
// size of the directory.
func (s *Self) countFiles() (uint64, error) {
	if _, err := s.fds.open(); err != nil {
		return 0, err
	}
	if !s.dirent {
		if err := unix.Fstat(s.fds.fd, &s.stat); err != nil {
			return 0, s.fds.failed("stat", err)
		}
		if s.stat.Size > 0 {
			return uint64(s.stat.Size), nil
		}
		s.dirent = true
	}
	if _, err := unix.Seek(s.fds.fd, 0, unix.SEEK_SET); err != nil {
		return 0, s.fds.failed("seek", err)
	}
	count := uint64(0)
	for {
		if len(s.buf) == 0 {
			grow(&s.buf)
		}
		n, err := unix.Getdents(s.fds.fd, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, s.fds.failed("readdir", err)
		}
		if n == 0 {
			return count, nil
		}
		entries, err := countDirents(s.buf[:n])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", s.fds.path, err)
		}
		count += entries
	}
}

// countDirents counts what getdents64(2) returned, without "." and "..":
//
//	struct linux_dirent64 { u64 d_ino; s64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }
func countDirents(b []byte) (uint64, error) {
	count := uint64(0)
	for len(b) > 0 {
		const reclen, name = 16, 19
		if len(b) < name+2 {
			return 0, errors.New("malformed directory entry")
		}
		size := int(binary.NativeEndian.Uint16(b[reclen:]))
		if size < name+2 || size > len(b) {
			return 0, errors.New("malformed directory entry")
		}
		if b[name] != '.' { // the others are numbers
			count++
		}
		b = b[size:]
	}
	return count, nil
}

// parseResident returns the second of the fields of /proc/self/statm, which are
// in pages (proc_pid_statm(5)):
//
//	573 212 190 7 0 133 0
func parseResident(b []byte) (uint64, error) {
	line, _, ok := cutLine(b)
	if !ok {
		return 0, malformed(b)
	}
	_, rest, ok := cutUint(line)
	if !ok {
		return 0, malformed(line)
	}
	pages, rest, ok := cutUint(rest)
	if !ok || len(rest) == 0 || rest[0] != ' ' {
		return 0, malformed(line)
	}
	return pages, nil
}
