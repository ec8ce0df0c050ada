package measure

import (
	"runtime"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/proc"
)

// Agent measures this process.
type Agent struct {
	self     *proc.Self
	stat     proc.SelfStat
	readings owca.Measurements
}

// NewAgent returns an Agent that has not read anything. The root of the host
// does not matter to it: what it reads is in the /proc of its own namespace.
func (h *Host) NewAgent() *Agent {
	return &Agent{self: proc.FS{Root: "/"}.NewSelf()}
}

// Read returns what this process uses. The result belongs to a, which reuses
// it. The error says what is missing from it.
func (a *Agent) Read() (owca.Measurements, error) {
	err := a.self.Read(&a.stat)
	m := a.readings[:0]
	for _, c := range [...]struct {
		desc  *owca.Desc
		count proc.Count
	}{
		{owca.AgentCPU, a.stat.CPU},
		{owca.AgentMemory, a.stat.Resident},
		{owca.AgentFiles, a.stat.Files},
		{owca.AgentFilesMax, a.stat.FilesMax},
		{owca.AgentGoroutines, proc.Count{N: uint64(runtime.NumGoroutine()), OK: true}},
	} {
		if c.count.OK {
			m = append(m, owca.Reading{Desc: c.desc, Value: owca.Int(c.count.N)})
		}
	}
	a.readings = m
	return m, err
}

// Close closes the files.
func (a *Agent) Close() error { return a.self.Close() }
