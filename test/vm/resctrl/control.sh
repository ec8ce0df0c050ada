#!/bin/busybox sh
# Three tasks in two control groups by rules, and one of them limited by its cgroup (v2), too:
# what the groups may use and who is in them, and these limits,
# before, while the agent runs, after it has stopped, and after it was killed. $1 is what
# can be monitored: all or none.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

mounted || mount -t resctrl resctrl $fs
echo '+cpu +memory' >/sys/fs/cgroup/cgroup.subtree_control
for task in gold silver bronze; do spin $task; done
rule() { echo "    - {task_id: /$1, allocations: {rdt: {name: $2, l3: 'L3:0=$3;1=$3', mb: 'MB:0=$4;1=$4'}}}"; }
# allocate [LINE]...: of the runner.
allocate() {
	configure "$@" "state_dir: $tmp/state" 'allocator: !StaticAllocator' '  rules:' \
		"$(rule gold latency 7f0 100)" "$(rule silver batch 3 20)" "$(rule bronze batch 3 20)" \
		'    - {task_id: /silver, allocations: {cpu_quota: 0.5, memory_high: 1Gi}}'
	sed -i 's/!MeasurementRunner/!AllocationRunner/; s/interval: .*/interval: 200ms/' owca.yaml
}
# limits: what silver's cgroup has.
limits() { echo "$(cat /sys/fs/cgroup/silver/cpu.max)" "$(cat /sys/fs/cgroup/silver/memory.high)"; }
limited="$(($(nproc) * 50000)) 100000 1073741824" # half of all CPUs
schemata() { tr -d ' ' <"$fs/$1/schemata" | sort | paste -sd ' '; }
# show: each group with what it may use, and the tasks of which threads are in it.
show() {
	local dir group task in
	for dir in "$fs" "$fs"/owca-*; do
		[ -e "$dir/schemata" ] || continue
		group=${dir#"$fs"} in=''
		for task in gold silver bronze; do
			! grep -qxf "$dir/tasks" "/sys/fs/cgroup/$task/cgroup.threads" || in="$in $task"
		done
		printf '  %-16s %s %s\n' "${group:-/}" "$(schemata "$group")" "${in:-(none)}"
	done
	printf '  /silver: %s\n' "$(limits)"
}
in_effect() {
	[ "$(limits)" = "$limited" ] &&
		[ "$(schemata owca-latency 2>/dev/null)" = "L3:0=7f0;1=7f0 MB:0=100;1=100" ] &&
		[ "$(schemata owca-batch 2>/dev/null)" = "L3:0=003;1=003 MB:0=20;1=20" ] &&
		holds $fs/owca-latency gold && holds $fs/owca-batch silver && holds $fs/owca-batch bronze
}
undone() {
	[ "$(limits)" = 'max 100000 max' ] &&
		[ "$(schemata '')" = "$before" ] && [ -z "$(find $fs -maxdepth 1 -name 'owca-*')" ] &&
		holds $fs gold && holds $fs silver && holds $fs bronze
}

# begun: the agent runs, where what it is to do is true before.
begun() { eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not begin"; }

before=$(schemata '')
echo "before:"
show

allocate
$owca plan --config owca.yaml >planned || fail "owca plan: $(cat planned)"
cat planned
eventually undone || fail "owca plan has changed something: $(show)"
start
eventually in_effect || fail "not as the rules say: $(show)"
echo "the agent runs:"
show
[ "$1" = none ] || sees gold silver bronze
for task in gold bronze; do
	spin $task
	eventually in_effect || fail "a new process of $task is not in its group: $(show)"
done
$owca leases --state-dir $tmp/state >leases || fail "owca leases"
cat leases
for kind in cpu_quota memory_high rdt; do
	grep -q "^/silver  *$kind .* held " leases || fail "owca leases does not tell that $kind of silver is held"
done
$owca plan --config owca.yaml | grep -qx 'no changes' || fail "owca plan beside it: $($owca plan --config owca.yaml 2>&1)"
sed 's/cpu_quota: 0.5, //; /task_id: .gold/d' owca.yaml >less.yaml
$owca plan --config less.yaml >planned || fail "owca plan: $(cat planned)"
echo "with less in the configuration:"
cat planned
for line in '  cpu_quota .*→ no limit' '  rdt .* resctrl group of /gold  owca-latency → /' '.*given back: not decided any more, .*'; do
	grep -qx "$line" planned || fail "owca plan, without a quota and a group: $(cat planned)"
done
in_effect || fail "owca plan has changed something: $(show)"
stop
eventually undone || fail "after it has stopped: $(show)"
echo "it has stopped:"
show
no_errors

# Killed: the guardian undoes it. In machines that are slow, by how much is said by how
# long the program takes to start.
start
eventually in_effect || fail "not as the rules say: $(show)"
now() { cut -d' ' -f1 /proc/uptime; }
killed=$(now)
kill -KILL $agent
while [ -e $fs/owca-batch ] || [ -e $fs/owca-latency ]; do
	awk "BEGIN { exit !($(now) - $killed < 60) }" || fail "after it was killed: $(show)"
	usleep 10000
done
took=$(awk "BEGIN { print $(now) - $killed }")
wait $agent || :
eventually undone || fail "after it was killed: $(show)"
begun=$(now)
$owca version >/dev/null
echo "it was killed, and $took s later (owca version takes $(awk "BEGIN { print $(now) - $begun }") s):"
show

# Killed without a guardian: owca restore does.
allocate 'guardian: false'
start
eventually in_effect || fail "not as the rules say: $(show)"
kill -KILL $agent
wait $agent || :
in_effect || fail "changed by nobody: $(show)"
$owca restore --state-dir $tmp/state || fail "owca restore"
eventually undone || fail "after owca restore: $(show)"

# Somebody else's change stays as long as anybody is in the group.
start
eventually in_effect || fail "not as the rules say: $(show)"
echo 'MB:0=70;1=70' >$fs/owca-batch/schemata
eventually grep -q 'somebody else changed.*owca-batch' agent.err || fail "does not say that the schemata were changed"
theirs='L3:0=003;1=003 MB:0=70;1=70'
[ "$(schemata owca-batch)" = "$theirs" ] || fail "fights: $(show)"
stop
eventually undone || fail "somebody else changed a group, and after the agent has stopped: $(show)"

# Kept for the next agent, whose rules are the same, and which gives it back.
allocate 'on_exit: keep'
start
eventually in_effect || fail "not as the rules say: $(show)"
stop
in_effect || fail "not kept: $(show)"
start
begun
spin silver
eventually in_effect || fail "a new process of silver is not in its group: $(show)"
echo "kept, by the next agent:"
show
sed -i 's/on_exit: keep/on_exit: restore/' owca.yaml
kill -HUP $agent
eventually grep -q 'configuration reloaded' agent.err || fail "no reload"
stop
eventually undone || fail "after it has stopped: $(show)"
umount $fs
