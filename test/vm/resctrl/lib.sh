# Sourced by the scripts here, which run the program in a VM of test/vm/run-resctrl
# (busybox, root, cgroup v2) and clean up after themselves. Everything is slow
# there: what has to become true gets a minute, and nothing asserts how fast.
# shellcheck shell=dash
set -eu
name=$(basename "$0" .sh)
fs=/sys/fs/resctrl
owca=/tmp/owca
tmp=/tmp/$name
mkdir -m 777 "$tmp"
cd "$tmp"

fail() {
	echo "$name: $*" >&2
	for log in "$tmp"/*.err; do [ ! -e "$log" ] || { echo "--- $log"; tail -n 40 "$log"; } >&2; done
	exit 1
}

# eventually COMMAND...: repeats it until it succeeds.
eventually() {
	for _ in $(seq 300); do
		! "$@" || return 0
		usleep 200000
	done
	return 1
}

absent() { ! "$@"; }

cgroups='' jobs=''
ended() {
	local status=$? dir pid
	trap - EXIT
	for pid in $jobs; do kill -KILL "$pid" 2>/dev/null || :; done
	for dir in $cgroups; do end_cgroup "$dir"; done
	wait || :
	[ $status != 0 ] || echo "$name: ok"
	exit $status
}
trap ended EXIT

# end_cgroup NAME: with the processes in it.
end_cgroup() {
	[ -e "/sys/fs/cgroup/$1" ] || return 0
	echo 1 >"/sys/fs/cgroup/$1/cgroup.kill"
	eventually rmdir "/sys/fs/cgroup/$1" 2>/dev/null || { echo "$name: leaving /$1 behind" >&2; exit 1; }
}

# spin CGROUP: a cgroup, and a process in it that runs now and then, so that others
# can, too; another one if the cgroup is there.
spin() {
	[ -e "/sys/fs/cgroup/$1" ] || { mkdir "/sys/fs/cgroup/$1"; cgroups="$cgroups $1"; }
	sh -c 'echo $$ >"/sys/fs/cgroup/$0/cgroup.procs"
		while :; do
			for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do :; done
			usleep 100000
		done' "$1" &
}

# configure [LINE]...: of the runner, for all tasks of the file's node.
node='!StaticNode {tasks: [/gold, /silver, /bronze]}'
configure() {
	cat >owca.yaml <<-YAML
		runner: !MeasurementRunner
		  node: $node
		  interval: 500ms
		  enable_derived_metrics: true
		  metrics_storage: !LogStorage {output_filename: $tmp/out.prom, overwrite: true}
	YAML
	for line; do echo "  $line" >>owca.yaml; done
}

# start [COMMAND...]: the agent, as root or by a command; $agent is its process.
start() {
	rm -f out.prom
	if [ $# = 0 ]; then set -- "$owca" run --root; else set -- "$@" "$owca" run; fi
	"$@" --config "$tmp/owca.yaml" >>agent.out 2>>agent.err &
	agent=$!
	jobs="$jobs $agent"
}

# stop: by SIGTERM, which must end it well.
stop() {
	local status=0
	kill -TERM "$agent"
	wait "$agent" || status=$?
	[ $status = 0 ] || fail "the agent ends with $status at SIGTERM"
}

running() { kill -0 "$agent" 2>/dev/null || fail "the agent has ended"; }

# value METRIC [LABEL]...: of the one series with these labels.
value() {
	[ -e out.prom ] || return 1
	awk -v name="$1" -v labels="$(shift; echo "$*")" '
		BEGIN { n = split(labels, want, " ") }
		/^#/ { next }
		{
			series = $0; sub(/ [^ ]*$/, "", series)
			if (series != name && index(series, name "{") != 1) next
			for (i = 1; i <= n; i++) if (!index(series, want[i])) next
			v = $NF; found++
		}
		END { if (found != 1) exit 1; print v }' out.prom
}

# above N METRIC [LABEL]...
above() {
	local least=$1 v
	shift
	running
	v=$(value "$@") && awk "BEGIN { exit !($v > $least) }"
}

monitored='owca_task_llc_occupancy_bytes owca_task_memory_bandwidth_bytes_total'
monitored="$monitored owca_task_memory_bandwidth_local_bytes_total owca_task_memory_bandwidth_remote_bytes_total"

# sees TASK...: all that resctrl tells of them.
sees() {
	local task metric
	for task; do
		for metric in $monitored; do
			eventually above 0 "$metric" "task_id=\"/$task\"" || fail "no $metric of $task: $(grep "task_id=\"/$task\"" out.prom)"
		done
	done
}

# ours: the groups of the agent, with the inode of each, which a new one has not.
ours() { find "$fs" -type d -name 'owca-*' -exec stat -c '%n %i' {} + 2>/dev/null | sort; }

none_ours() { [ -z "$(ours)" ]; }

mounted() { grep -q " $fs resctrl " /proc/mounts; }

# group TASK: its monitoring group.
group() { ours | awk -v task="$1" 'index($1, task) { print $1 }'; }

# holds DIR CGROUP: every thread of the cgroup that lives is in the group.
holds() {
	local tid
	# shellcheck disable=SC2016 # for awk
	for tid in $(awk 'FILENAME == ARGV[1] { inside[$1]; next } !($1 in inside)' "$1/tasks" "/sys/fs/cgroup/$2/cgroup.threads"); do
		[ ! -e "/proc/$tid" ] || grep -qx "$tid" "$1/tasks" || return 1
	done
}

# no_errors: nothing was logged as an error, or twice.
no_errors() {
	local bad
	bad=$(grep -E 'level=(ERROR|CRITICAL)|panic|goroutine' agent.err || :)
	[ -z "$bad" ] || fail "said: $bad"
	bad=$(sed -E 's/^time=[^ ]+ //' agent.err | grep -v level=INFO | sort | uniq -d || :)
	[ -z "$bad" ] || fail "said more than once: $bad"
}
