// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

// Shares the counters of whole CPUs out to cgroups. Whenever a CPU goes over to
// another cgroup, and whenever flush is run there, what its counters gained
// since they were last read is added to the rows of those counted cgroups that
// the running task's is in or below. bpf.go is the other side of it.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

// As in bpf.go.
#define MAX_EVENTS 32	 // bits of a mask
#define MAX_ANCESTORS 12 // counted cgroups that a task is in, and below
#define MAX_LEVELS 128	 // of the cgroup hierarchy
#define CHUNK 128	 // slots
#define CHUNKS 64
#define LEAVES 1024 // of a CPU; LEAF_BITS is its logarithm
#define LEAF_BITS 10
#define FLUSHED 1 // the program was run: nothing kept it from it

// What is read of the kernel's types, as include/linux/{cgroup-defs,kernfs,sched}.h
// has them since 5.5; where, says its BTF.
#define CORE __attribute__((preserve_access_index))
struct kernfs_node {
	__u64 id;
} CORE;
struct cgroup {
	struct kernfs_node *kn;
} CORE;
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
} CORE;
struct css_set {
	struct cgroup_subsys_state *subsys[1];
} CORE;
struct sched_entity {
	__u64 sum_exec_runtime;
	__u64 prev_sum_exec_runtime; // what it was when the task came on its CPU
} CORE;
struct task_struct {
	struct sched_entity se;
	struct css_set *cgroups;
} CORE;
enum cgroup_subsys_id { perf_event_cgrp_id };

typedef struct bpf_perf_event_value reading;

struct counter {
	reading last;  // what it was when it was read last
	reading delta; // what it gained since the time before
	reading rest;  // what of that was not the running task's
};

// A cpu is the counters of a CPU. Its array and that of a row have as many
// elements as there are events.
struct cpu {
	__u64 control; // written by user space: which events have a counter here, and above them how often that changed
	__u32 epoch;   // the upper half of control that is known here
	__u32 valid;   // events that were read since
	__u64 lost;    // runs whose task was too deep
	__u64 first;   // the css of the task that ran after the last run of the program, 0 = not known
	struct counter counters[MAX_EVENTS];
};

// A row is what a slot, which is a counted cgroup, counted on one CPU.
struct row {
	__u64 seq;    // odd while it is written
	__u64 failed; // events that could not be read, ever; all if the task had too many ancestors
	reading counts[MAX_EVENTS];
};

// A leaf is where to add the counts of a cgroup that tasks run in.
struct leaf {
	__u64 id;
	__u32 generation; // of the set of counted cgroups
	__u32 n;
	__u32 slots[MAX_ANCESTORS];
};

struct shared {
	__u32 generation;
};

// A share is in parts of WHOLE.
#define WHOLE_BITS 20
#define WHOLE (1ULL << WHOLE_BITS)

// What bpf.go sets before loading.
const volatile __u32 n_events;
const volatile __u32 n_cpus;
const volatile __u32 leaders; // events that begin a group
const volatile __u32 early;   // events that count switches
const volatile __u32 follows; // sched_switch runs the program, so that it knows who comes

// Counters at event × n_cpus + CPU.
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} events SEC(".maps");

// The slots of the counted cgroups by id, which is the inode number of the
// directory. Preallocated: before 6.1 perf_event programs may use no other.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CHUNK *CHUNKS);
	__type(key, __u64);
	__type(value, __u32);
} counted SEC(".maps");

// When a task was last moved into a cgroup, by the address of its struct cgroup,
// which tells those of several hierarchies apart where ids do not.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} moves SEC(".maps");

// One element; n_cpus; n_cpus × LEAVES.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct shared);
} shared SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct cpu));
} cpus SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct leaf);
} leaves SEC(".maps");

// Rows at CPU × CHUNK + slot % CHUNK of the chunk slot / CHUNK: what a CPU
// writes is together, and new chunks are added while this runs.
struct chunk {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct row));
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, CHUNKS);
	__type(key, __u32);
	__array(values, struct chunk);
} chunks SEC(".maps");

static __always_inline struct row *row_of(__u32 slot, __u32 cpu)
{
	__u32 nr = slot / CHUNK, i = cpu * CHUNK + slot % CHUNK;
	void *chunk = bpf_map_lookup_elem(&chunks, &nr);

	return chunk ? bpf_map_lookup_elem(chunk, &i) : NULL;
}

// Begins and ends writing to a row. The result is used so that the instruction is
// the fetching one, which is a full barrier; the other is none on arm64.
static __always_inline void step(struct row *row)
{
	__u64 old = __sync_fetch_and_add(&row->seq, 1);

	asm volatile("" : : "r"(old));
}

static __always_inline struct cgroup_subsys_state *css_of(struct task_struct *task)
{
	struct cgroup_subsys_state **subsys = __builtin_preserve_access_index(&task->cgroups->subsys[0]);

	return subsys[bpf_core_enum_value(enum cgroup_subsys_id, perf_event_cgrp_id)];
}

// walk finds the counted ones among a cgroup and its ancestors. Their number is
// kept in the leaf and not in a variable, of which the verifier would follow every
// value through every level.
static __always_inline void walk(struct cgroup_subsys_state *css, struct leaf *leaf, struct cpu *cpu, __u32 this)
{
	__u32 level;

	*(volatile __u32 *)&leaf->n = 0;
	for (level = 0; level < MAX_LEVELS && css; level++) {
		__u64 id = css->cgroup->kn->id;
		__u32 *slot = bpf_map_lookup_elem(&counted, &id);

		if (slot) {
			__u32 n = *(volatile __u32 *)&leaf->n;

			if (n < MAX_ANCESTORS) {
				leaf->slots[n] = *slot;
				leaf->n = n + 1;
			} else {
				struct row *row = row_of(*slot, this);

				if (row)
					row->failed = ~0ULL;
			}
		}
		css = css->parent;
	}
	if (css) {
		cpu->lost++;
		leaf->id = 0; // again next time
	}
}

// leaf_of looks up a cgroup among those that this CPU saw last, so that walking
// is for once in a while. No other CPU writes them: they need no lock.
static __always_inline struct leaf *leaf_of(struct cgroup_subsys_state *css, struct cpu *cpu, __u32 this)
{
	__u64 id = css->cgroup->kn->id;
	__u32 zero = 0, generation, i = this * LEAVES + ((id * 0x9e3779b97f4a7c15ULL) >> (64 - LEAF_BITS));
	struct shared *s = bpf_map_lookup_elem(&shared, &zero);
	struct leaf *leaf = bpf_map_lookup_elem(&leaves, &i);

	if (!s || !leaf)
		return NULL;
	generation = *(volatile __u32 *)&s->generation;
	if (leaf->id != id || leaf->generation != generation) {
		leaf->id = id;
		leaf->generation = generation;
		walk(css, leaf, cpu, this);
	}
	return leaf;
}

// share returns which part of what this CPU gained is the running task's, whose
// cgroup is not the one that ran at first. If it was moved meanwhile, that is what
// came after; a move that is not in moves yet has only just happened. Otherwise it
// came by a switch that the program was not run at, and it is what came after
// that. A kernel of 6.18 does so now and then, always for the same threads, and
// not for the tracepoint's other users either. (Moving a task begins its time on
// the CPU anew, and so does exiting, by sched_move_task.)
static __always_inline __u64 share(struct cpu *cpu)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = (__u64)css_of(task)->cgroup, *at = bpf_map_lookup_elem(&moves, &key);
	__u64 here = task->se.sum_exec_runtime - task->se.prev_sum_exec_runtime;
	__u64 span = 0, now = bpf_ktime_get_ns();
	__u32 i;

	for (i = 0; i < MAX_EVENTS && i < n_events; i++)
		if (cpu->counters[i].delta.enabled > span)
			span = cpu->counters[i].delta.enabled;
	if (at && now > *at && now - *at < span)
		here = now - *at;
	if (here >= span)
		return 0;
	return (here << WHOLE_BITS) / span;
}

static __always_inline __u64 part_of(__u64 n, __u64 part)
{
	return (n * part + WHOLE / 2) >> WHOLE_BITS;
}

// give adds to a slot what was not the running task's. It and split are global
// functions, which the verifier looks at once and not for every way that leads to
// them.
__noinline int give(__u32 slot, __u32 this, __u32 failed)
{
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &this);
	struct row *row = row_of(slot, this);
	__u32 i;

	if (!cpu || !row)
		return 0;
	step(row);
	row->failed |= failed;
	for (i = 0; i < MAX_EVENTS && i < n_events; i++) {
		row->counts[i].counter += cpu->counters[i].rest.counter;
		row->counts[i].enabled += cpu->counters[i].rest.enabled;
		row->counts[i].running += cpu->counters[i].rest.running;
	}
	step(row);
	return 0;
}

// split gives the cgroup that ran first what is not the running task's. Of
// switches, the running task has made none yet but the one that is about to count.
__noinline int split(__u32 this, __u32 failed, __u32 soon)
{
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &this);
	struct cgroup_subsys_state *css;
	__u32 i, level;
	__u64 part;

	if (!cpu)
		return 0;
	part = share(cpu);
	for (i = 0; i < MAX_EVENTS && i < n_events; i++) {
		struct counter *c = &cpu->counters[i];
		__u64 own = soon >> i & 1 && c->delta.counter;

		c->rest = c->delta;
		c->delta.counter = (early >> i & 1 ? 0 : part_of(c->delta.counter - own, part)) + own;
		c->delta.enabled = part_of(c->delta.enabled, part);
		c->delta.running = part_of(c->delta.running, part);
		c->rest.counter -= c->delta.counter;
		c->rest.enabled -= c->delta.enabled;
		c->rest.running -= c->delta.running;
	}
	// It may have been removed meanwhile, even freed: what is read then is nobody's id.
	css = (void *)cpu->first;
	for (level = 0; level < MAX_LEVELS && css; level++) {
		__u64 id = BPF_CORE_READ(css, cgroup, kn, id);
		__u32 *slot = bpf_map_lookup_elem(&counted, &id);

		if (slot)
			give(*slot, this, failed);
		css = BPF_CORE_READ(css, parent);
	}
	return 0;
}

// count is run with preemption off, and by nothing that interrupts. The events in
// soon are about to count 1 for the running task that they have not yet. next is
// of the task that runs from now on, NULL if that is not known.
static __always_inline void count(__u32 soon, struct cgroup_subsys_state *next)
{
	__u32 this = bpf_get_smp_processor_id(), valid, failed = 0, i, k;
	struct cgroup_subsys_state *css = css_of(bpf_get_current_task_btf());
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &this);
	struct leaf *leaf;
	reading leader = {};
	__u64 control;

	if (!cpu)
		return;
	leaf = leaf_of(css, cpu, this);
	if (!leaf)
		return;
	control = *(volatile __u64 *)&cpu->control;
	if (cpu->epoch != control >> 32) {
		cpu->epoch = control >> 32;
		cpu->valid = 0;
	}
	valid = cpu->valid;
	for (i = 0; i < MAX_EVENTS && i < n_events; i++) {
		struct counter *c = &cpu->counters[i];
		__u32 bit = 1U << i;
		reading now;
		long unread;

		if (leaders & bit)
			leader.enabled = 0;
		c->delta.counter = c->delta.enabled = c->delta.running = 0;
		if (!(control & bit))
			continue;
		// What has a leader needs no times of its own. Reading them, too, makes
		// counting four events at a switch a fifth dearer.
		if (leader.enabled) {
			now.counter = bpf_perf_event_read(&events, i * n_cpus + this);
			unread = now.counter > -4096ULL; // an errno
		} else {
			unread = bpf_perf_event_read_value(&events, i * n_cpus + this, &now, sizeof(now));
		}
		if (unread) {
			failed |= bit;
			valid &= ~bit;
			continue;
		}
		if (soon & bit)
			now.counter++;
		// A group has one time, but each reading is some later.
		if (leader.enabled) {
			now.enabled = leader.enabled;
			now.running = leader.running;
		} else {
			leader = now;
		}
		if (valid & bit) {
			c->delta.counter = now.counter - c->last.counter;
			c->delta.enabled = now.enabled - c->last.enabled;
			c->delta.running = now.running - c->last.running;
		}
		valid |= bit;
		c->last = now;
	}
	cpu->valid = valid;
	if (cpu->first && cpu->first != (__u64)css)
		split(this, failed, soon);
	cpu->first = (__u64)next;
	for (k = 0; k < MAX_ANCESTORS && k < leaf->n; k++) {
		struct row *row = row_of(leaf->slots[k], this);

		if (!row)
			continue;
		step(row);
		row->failed |= failed;
		for (i = 0; i < MAX_EVENTS && i < n_events; i++) {
			row->counts[i].counter += cpu->counters[i].delta.counter;
			row->counts[i].enabled += cpu->counters[i].delta.enabled;
			row->counts[i].running += cpu->counters[i].delta.running;
		}
		step(row);
	}
}

// sched_switch is run before each switch of tasks, and before the kernel counts
// that, hence early.
SEC("tp_btf/sched_switch")
int sched_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
	struct cgroup_subsys_state *from = css_of(prev), *to = css_of(next);
	__u32 this = bpf_get_smp_processor_id();
	struct cpu *cpu = bpf_map_lookup_elem(&cpus, &this);

	if (cpu && (from != to || cpu->first != (__u64)from))
		count(early, to);
	return 0;
}

// cgroup_switch is run by the software event of that name, on its CPU, when the
// running task is about to give way to one of another cgroup. bpf.go says
// why it is second choice.
SEC("perf_event")
int cgroup_switch(void *ctx)
{
	count(0, NULL);
	return 0; // no sample
}

// flush is run by BPF_PROG_TEST_RUN on each CPU, for what the running task
// counted so far.
SEC("raw_tracepoint")
int flush(void *ctx)
{
	count(0, follows ? css_of(bpf_get_current_task_btf()) : NULL);
	return FLUSHED;
}

// moved is run when a task has been moved to a cgroup of any hierarchy.
SEC("raw_tracepoint/cgroup_attach_task")
int moved(__u64 *ctx)
{
	__u64 key = ctx[0], now = bpf_ktime_get_ns();

	bpf_map_update_elem(&moves, &key, &now, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
