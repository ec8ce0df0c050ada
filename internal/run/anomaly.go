package run

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/owca-project/owca"
)

// The most that is taken of one component in one tick, so that one that has gone mad does
// not flood the storages.
const (
	maxAnomalies = 1000
	maxSuspects  = 10_000
	maxMetrics   = 10_000
)

// found is what the components of a tick have found.
type found struct {
	metrics []owca.Metric // of anomalies, and of the components' own
	tasks   map[owca.TaskID]*owca.TaskData
	told    map[suspicion]bool

	anomalies uint64 // since the start
	last      int64  // when the last was found, Unix milliseconds
}

// suspicion is what makes an anomaly the same as another one.
type suspicion struct {
	contended, contending owca.TaskID
	resource              owca.ContendedResource
	uuid                  string
}

// reset begins a tick.
func (f *found) reset() {
	clear(f.metrics)
	f.metrics = f.metrics[:0]
	clear(f.tasks)
	clear(f.told)
}

// take checks what a component has found and makes metrics of it. The error says how much
// was dropped and why the first of it was.
func (l *Loop) take(c *component, anomalies []owca.Anomaly, metrics []owca.Metric, ms int64) error {
	if len(anomalies) == 0 && len(metrics) == 0 {
		return nil
	}
	d := drops{}
	if over := len(anomalies) - maxAnomalies; over > 0 {
		d.add(over, "%d anomalies in one tick are too many: only the first %d are taken", len(anomalies), maxAnomalies)
		anomalies = anomalies[:maxAnomalies]
	}
	suspects := 0
	for i := range anomalies {
		a := &anomalies[i]
		if suspects += len(a.Contending); suspects > maxSuspects {
			d.add(len(anomalies)-i, "more than %d suspects in one tick are too many", maxSuspects)
			break
		}
		l.takeAnomaly(a, &d, ms)
	}
	l.takeMetrics(metrics, nil, &d, ms)
	if d.n == 0 {
		return nil
	}
	c.rejected += uint64(d.n)
	c.fail()
	return fmt.Errorf("%s: %d of its results are dropped; the first: %s", c.name, d.n, d.first)
}

// drops counts what is dropped of a component in a tick.
type drops struct {
	n       int
	first   string
	metrics int // that were looked at
}

func (d *drops) add(n int, format string, args ...any) {
	if d.n == 0 {
		d.first = fmt.Sprintf(format, args...)
	}
	d.n += n
}

// takeAnomaly makes one metric for each suspect, as the original did, and one without if
// there is none.
func (l *Loop) takeAnomaly(a *owca.Anomaly, d *drops, ms int64) {
	victim := l.task(a.Contended)
	if victim == nil {
		d.add(1, "an anomaly of task %.100q, which does not exist", a.Contended)
		return
	}
	resource := a.Resource
	switch resource {
	case owca.MemoryBandwidth, owca.LastLevelCache, owca.CPUs, owca.ThermalDesignPower, owca.UnknownResource:
	default:
		resource = owca.UnknownResource
	}
	contending := make([]owca.TaskID, 0, len(a.Contending))
	for _, id := range a.Contending {
		switch {
		case l.task(id) == nil:
			d.add(1, "task %.100q, which does not exist, as a suspect", id)
		case id == a.Contended:
			d.add(1, "task %.100q as a suspect of its own contention", id)
		case slices.Contains(contending, id):
			d.add(1, "task %.100q twice as a suspect of the same contention", id)
		default:
			contending = append(contending, id)
		}
	}
	uuid := anomalyID(append(slices.Clone(contending), a.Contended))
	of := map[string]string{
		"contended_task_id": string(a.Contended), "resource": string(resource), "uuid": uuid, "type": "contention",
	}
	inherited := pairs(victim.MetricLabels)
	told := true // by another component, or twice by this one
	put := func(id owca.TaskID) {
		s := suspicion{a.Contended, id, resource, uuid}
		if l.found.told[s] {
			return
		}
		if l.found.told == nil {
			l.found.told = make(map[suspicion]bool)
		}
		l.found.told[s], told = true, false
		l.found.metrics = append(l.found.metrics, owca.Metric{
			Desc: owca.AnomalyContention, Labels: owca.NewLabels(inherited, of, l.runner.ExtraLabels), Value: owca.Int(1), Time: ms,
		})
	}
	for _, id := range contending {
		of["contending_task_id"] = string(id)
		of["contending_workload_instance"] = workloadInstance(l.task(id))
		put(id)
	}
	if len(contending) == 0 {
		put("")
	}
	if told {
		return
	}
	l.found.anomalies++
	l.found.last = ms
	l.takeMetrics(a.Metrics, map[string]string{"uuid": uuid, "type": "anomaly"}, d, ms)
}

// workloadInstance is the label of a task that names the instance of its workload.
func workloadInstance(t *owca.TaskData) string {
	if v := t.Labels["workload_instance"]; v != "" {
		return v
	}
	return "workload not found"
}

// anomalyID identifies contention between tasks, whatever their order: the first 16 bytes of
// the sha256 of the sorted ids, joined by commas, in the form of a UUID. It sorts ids.
func anomalyID(ids []owca.TaskID) string {
	slices.Sort(ids)
	h := sha256.New()
	for i, id := range ids {
		if i > 0 {
			h.Write([]byte{','})
		}
		h.Write([]byte(id))
	}
	s := hex.EncodeToString(h.Sum(nil)[:16])
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

// task returns a task of this tick, nil if there is none.
func (l *Loop) task(id owca.TaskID) *owca.TaskData {
	f := &l.found
	if len(f.tasks) == 0 {
		if f.tasks == nil {
			f.tasks = make(map[owca.TaskID]*owca.TaskData, len(l.snapshot.Tasks))
		}
		for i := range l.snapshot.Tasks {
			f.tasks[l.snapshot.Tasks[i].ID] = &l.snapshot.Tasks[i]
		}
	}
	return f.tasks[id]
}

// takeMetrics takes metrics of a component, whose labels get those of the host, own and the
// user's, which win over what comes before them.
func (l *Loop) takeMetrics(metrics []owca.Metric, own map[string]string, d *drops, ms int64) {
	if left := maxMetrics - d.metrics; len(metrics) > left {
		d.add(len(metrics)-left, "more than %d metrics in one tick are too many: only the first are taken", maxMetrics)
		metrics = metrics[:left]
	}
	d.metrics += len(metrics)
	for _, m := range metrics {
		if err := checkMetric(&m); err != nil {
			d.add(1, "a metric: %v", err)
			continue
		}
		if own == nil {
			m.Labels = l.labels.with(m.Labels, l.runner.ExtraLabels)
		} else {
			m.Labels = owca.NewLabels(l.labels.common, pairs(m.Labels), own, l.runner.ExtraLabels)
		}
		if m.Time == 0 {
			m.Time = ms
		}
		l.found.metrics = append(l.found.metrics, m)
	}
}

func checkMetric(m *owca.Metric) error {
	switch d := m.Desc; {
	case d == nil:
		return errors.New("without a description")
	case !validName(d.Name):
		return fmt.Errorf("%.100q is not the name of one", d.Name)
	case d.Label != "" && owca.SanitizeLabelName(d.Label) != d.Label:
		return fmt.Errorf("%s: %.100q is not the name of a label", d.Name, d.Label)
	case math.IsNaN(m.Value.Float(d.Scale)):
		return fmt.Errorf("%s is not a number (NaN): leave out what is not known", d.Name)
	}
	return nil
}

// validName says whether Prometheus takes it as the name of a metric, which may be longer
// than anybody wants to read.
func validName(name string) bool {
	if name == "" || len(name) > 400 || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_', c == ':', c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		default:
			return false
		}
	}
	return true
}

func pairs(labels *owca.Labels) map[string]string {
	m := make(map[string]string, labels.Len())
	for _, p := range labels.All() {
		m[p.Name] = p.Value
	}
	return m
}

// with returns labels with those of the host beneath them and the user's above. It remembers
// them until the end of the next tick, as components that keep their labels use them again.
func (l *labels) with(labels *owca.Labels, extra map[string]string) *owca.Labels {
	if labels.Len() == 0 {
		return l.platform
	}
	if merged := l.merged[labels]; merged != nil {
		return merged
	}
	merged := l.before[labels]
	if merged == nil {
		merged = owca.NewLabels(l.common, pairs(labels), extra)
	}
	if l.merged == nil {
		l.merged = make(map[*owca.Labels]*owca.Labels)
	}
	l.merged[labels] = merged
	return merged
}

// age forgets the labels that were not used since the last call.
func (l *labels) age() {
	l.merged, l.before = l.before, l.merged
	clear(l.merged)
}

// appendFound appends the metrics of what was found in this tick, and statistics.
func (l *Loop) appendFound(m []owca.Metric, ms int64) []owca.Metric {
	if len(l.components) == 0 {
		return m
	}
	f := &l.found
	m = append(m, owca.Metric{Desc: owca.AnomaliesFound, Labels: l.labels.platform, Value: owca.Int(f.anomalies), Time: ms})
	if f.last != 0 {
		m = append(m, owca.Metric{Desc: owca.AnomalyLastOccurrence, Labels: l.labels.platform, Value: owca.Int(uint64(f.last)), Time: ms})
	}
	return append(m, f.metrics...)
}
