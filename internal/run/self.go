package run

import (
	"sync/atomic"
	"time"

	"github.com/owca-project/owca"
	"github.com/owca-project/owca/internal/measure"
)

// self is what the agent knows of itself.
type self struct {
	agent           *measure.Agent
	ticks, overruns uint64

	reloads, rejected atomic.Uint64
	stale             atomic.Bool // the newest configuration was rejected
}

// Reloaded counts an attempt to load the configuration again.
func (l *Loop) Reloaded(ok bool) {
	if ok {
		l.self.reloads.Add(1)
	} else {
		l.self.rejected.Add(1)
	}
	l.self.stale.Store(!ok)
}

func (l *Loop) appendSelf(m []owca.Metric, ms int64) []owca.Metric {
	defer l.stages[stageSelf].timed(time.Now())
	put := func(d *owca.Desc, label string, v owca.Value) {
		m = append(m, owca.Metric{Desc: d, Labels: l.labels.platform, Label: label, Value: v, Time: ms})
	}
	m = append(m, owca.Metric{Desc: owca.AgentInfo, Labels: l.labels.build, Value: owca.Int(1), Time: ms})
	put(owca.AgentUp, "", owca.Int(1))
	put(owca.AgentTasks, "", owca.Int(uint64(len(l.snapshot.Tasks))))
	put(owca.AgentTicks, "", owca.Int(l.self.ticks))
	put(owca.AgentOverruns, "", owca.Int(l.self.overruns))
	for i := range l.stages {
		s := &l.stages[i]
		if !l.has(i) {
			continue
		}
		if s.took > 0 { // some are only known in the tick after
			put(owca.AgentDuration, stageNames[i], owca.Int(uint64(s.took)))
		}
		put(owca.AgentErrors, stageNames[i], owca.Int(s.errors))
	}
	put(owca.AgentCgroupsVanished, "", owca.Int(l.tasks.Vanished()))
	if backend, cgroups, files := l.tasks.Counting(); backend != "" {
		put(owca.AgentPerfBackend, backend, owca.Int(1))
		put(owca.AgentPerfCgroups, "", owca.Int(uint64(cgroups)))
		put(owca.AgentPerfFiles, "", owca.Int(uint64(files)))
	}
	m = l.appendReadings(m, l.tasks.Monitoring(), l.labels.platform, ms)
	for _, c := range l.components {
		if c.called {
			put(owca.AgentComponentDuration, c.name, owca.Int(uint64(c.took)))
		}
		put(owca.AgentComponentErrors, c.name, owca.Int(c.errors))
		put(owca.AgentComponentOverruns, c.name, owca.Int(c.overruns))
		put(owca.AgentComponentRejected, c.name, owca.Int(c.rejected))
	}
	m = l.appendActing(m, ms)
	for _, q := range l.queues {
		put(owca.AgentStorageDropped, q.name, owca.Int(q.dropped.Load()))
		put(owca.AgentStorageErrors, q.name, owca.Int(q.errors.Load()))
	}
	put(owca.AgentReloads, "accepted", owca.Int(l.self.reloads.Load()))
	put(owca.AgentReloads, "rejected", owca.Int(l.self.rejected.Load()))
	ok := uint64(1)
	if l.self.stale.Load() {
		ok = 0
	}
	put(owca.AgentReloadOK, "", owca.Int(ok))
	readings, err := l.self.agent.Read()
	l.report(stageSelf, err)
	return l.appendReadings(m, readings, l.labels.platform, ms)
}

// has says whether the configuration has a stage.
func (l *Loop) has(which int) bool {
	switch which {
	case stageDetect:
		return len(l.detectors) > 0
	case stageDecide:
		return len(l.allocators) > 0
	case stageAct:
		return l.acting.on
	}
	return true
}
