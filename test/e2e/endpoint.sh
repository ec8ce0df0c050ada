#!/usr/bin/env bash
# The agent as `make run` starts it: promtool likes what it serves, the CPU time
# of a task is what /proc says its process used, and the table says it, too.
. "$(dirname "$0")/lib.bash"
need promtool command -v promtool

new_cgroup busy
busy=$cgroup
in_cgroup "$busy" bash -c 'while :; do :; done'
worker=$pid
start agent "$tmp/owca" run --root
agent=$pid
eventually 10 ready || fail "not ready"

task="task_id=\"$busy\""
has_task() { get /metrics >"$tmp/metrics" && value "$tmp/metrics" owca_task_cpu_usage_cores "$task" >/dev/null 2>&1; }
eventually 20 has_task || fail "no CPU usage of $busy"
check "$(value "$tmp/metrics" owca_task_up "$task") == 1"
check "$(value "$tmp/metrics" owca_task_memory_usage_bytes "$task") >= 4096"
check "$(value "$tmp/metrics" owca_task_cpu_usage_cores "$task") > 0"
check "$(value "$tmp/metrics" owca_task_cpu_usage_cores "$task") <= 1.1" # one process

# used: the nanoseconds the worker was on a CPU. counted: those of its cgroup,
# once they have stopped to grow.
used() { cut -d' ' -f1 "/proc/$worker/schedstat"; }
counted() { get /metrics >"$tmp/metrics" && value "$tmp/metrics" owca_task_cpu_usage_seconds_total "$task"; }
settled() {
	local before
	before=$(counted) && sleep 1.5 && now=$(counted) && [ "$now" = "$before" ]
}
kill -STOP "$worker"
eventually 20 settled || fail "a stopped task goes on using CPU time"
c0=$now p0=$(used)
kill -CONT "$worker"
sleep 4
kill -STOP "$worker"
eventually 20 settled || fail "a stopped task goes on using CPU time"
c1=$now p1=$(used)
ratio=$(awk "BEGIN { print ($c1 - $c0) / (($p1 - $p0) / 1e9) }")
echo "$name: CPU time of a busy task: $(awk "BEGIN { print $c1 - $c0 }") s, by /proc $(awk "BEGIN { print ($p1 - $p0) / 1e9 }") s: ratio $ratio"
check "$p1 - $p0 > 2e8"
check "$ratio >= 0.9 && $ratio <= 1.05"

get /metrics >"$tmp/text"
promtool check metrics <"$tmp/text" >"$tmp/promtool.err" 2>&1 || fail "promtool check metrics"
[ ! -s "$tmp/promtool.err" ] || fail "promtool check metrics complains"

# This promtool reads the older format only, to which the help of a counter in
# OpenMetrics has another name than its samples. Nothing else may be wrong.
get /metrics application/openmetrics-text >"$tmp/openmetrics"
[ "$(tail -n 1 "$tmp/openmetrics")" = "# EOF" ] || fail "OpenMetrics without its end"
grep -q '^# TYPE owca_ticks counter$' "$tmp/openmetrics" || fail "not OpenMetrics"
promtool check metrics <"$tmp/openmetrics" >"$tmp/promtool.err" 2>&1 || :
if grep -v '^owca_[a-z_]*_total no help text$' "$tmp/promtool.err"; then fail "promtool check metrics, of OpenMetrics"; fi

# Plain lines, as stdout is no terminal: a row for the task, by its columns.
kill -CONT "$worker"
row() { awk -v name="$busy" '$1 == "NAME" { for (i = 1; i <= NF; i++) column[$i] = i } $1 == name { print $column["CPU"], $column["MEM"], $column["KIND"] }' "$tmp/agent.out" | tail -n 1; }
works() { read -r cpu memory kind <<<"$(row)" && [ "$cpu" != - ] && [ "$cpu" != 0.00 ]; }
rows=$(grep -c "^$busy " "$tmp/agent.out" || :)
more() { [ "$(grep -c "^$busy " "$tmp/agent.out")" -gt "$rows" ] && works; }
eventually 40 more || fail "no line that says $busy is busy"
check "$cpu > 0 && $cpu <= 1.1" # one process
[[ $memory =~ ^[0-9.]+[KM]$ ]] || fail "memory of the task: $memory"
[ "$kind" = cgroup ] || fail "kind of the task: $kind"
if grep -q $'\x1b' "$tmp/agent.out"; then fail "lines have escape sequences"; fi

# What is gone is no task any more, and no error.
kill -KILL "$worker"
wait "$worker" 2>/dev/null || :
for dir in "${cgroups[@]}"; do rmdir "$dir"; done
cgroups=()
gone() { get /metrics >"$tmp/metrics" && ! grep -q "$task" "$tmp/metrics"; }
eventually 20 gone || fail "$busy is gone, but still a task"
for stage in discover measure store self; do
	check "$(value "$tmp/metrics" owca_errors_total "stage=\"$stage\"") == 0"
done
check "$(value "$tmp/metrics" owca_config_last_reload_successful) == 1"
stop "$agent"
if grep -E 'level=(WARN|ERROR|CRITICAL)' "$tmp/agent.err"; then fail "warnings on a healthy host"; fi
