#!/usr/bin/env bash
# An ordinary user without a capability: what can be measured is, what cannot is
# said once.
. "$(dirname "$0")/lib.bash"
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all)

new_cgroup busy
in_cgroup "$cgroup" bash -c 'while :; do :; done'
task="task_id=\"$cgroup\""
cd "$tmp"
cat >config.yaml <<-'YAML'
	runner: !MeasurementRunner
	  node: !AutoNode
	  interval: 100ms
	  enable_derived_metrics: true
	  memory_stat_interval: 200ms
	  numa_stat_interval: 200ms
	  limits_interval: 200ms
	  run_queue_interval: 200ms
	  metrics_storage: !PrometheusStorage
YAML
chmod 644 config.yaml
start agent "${nobody[@]}" "$tmp/owca" --config config.yaml
agent=$pid
ticked() { get /metrics >metrics && [ "$(value metrics owca_ticks_total)" -gt 30 ]; }
eventually 10 ready || fail "not ready"
eventually 30 ticked || fail "no ticks"
[ "$(awk '/^Uid:/ { print $2 $3 $4 $5 } /^Cap(Eff|Prm|Inh|Amb):/ { print $2 }' "/proc/$agent/status" | sort -u | tr -d '\n')" = "000000000000000065534655346553465534" ] ||
	fail "the agent is not an ordinary user: $(grep -E '^(Uid|Cap)' "/proc/$agent/status")"

for metric in owca_task_up owca_task_cpu_usage_seconds_total owca_task_cpu_usage_cores owca_task_memory_usage_bytes \
	owca_task_memory_anon_bytes owca_task_run_queue_wait_seconds_total; do
	v=$(value metrics $metric "$task")
	check "$v > 0"
done
check "$(value metrics owca_platform_memory_total_bytes) > 0"
check "$(value metrics owca_process_open_files) > 0"

# The same message twice is one too many.
twice=$(sed -E 's/^time=[^ ]+ //' agent.err | sort | uniq -d)
[ -z "$twice" ] || fail "said more than once: $twice"
stop "$agent"

"${nobody[@]}" "$tmp/owca" check >check.out || fail "owca check as nobody"

# A configuration of somebody else's is refused, one's own is not.
chown 1 config.yaml
status=0
"${nobody[@]}" "$tmp/owca" --once --config config.yaml >out 2>&1 || status=$?
[ $status = 1 ] && grep -q 'belongs to user 1' out || fail "a configuration of somebody else's: $status $(cat out)"
chown 65534 config.yaml
"${nobody[@]}" "$tmp/owca" --once --config config.yaml >out 2>&1 || fail "a configuration of one's own: $(cat out)"
# A port that only root may listen on.
sed -i 's/!PrometheusStorage/!PrometheusStorage {listen: "127.0.0.1:79"}/' config.yaml
status=0
"${nobody[@]}" "$tmp/owca" --once --config config.yaml >out 2>&1 || status=$?
if [ "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" -gt 79 ]; then
	[ $status = 1 ] && grep -q 'CAP_NET_BIND_SERVICE' out || fail "a privileged port: $status $(cat out)"
fi
