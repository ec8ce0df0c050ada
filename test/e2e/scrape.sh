#!/usr/bin/env bash
# A real Prometheus scrapes the agent, and a query tells what a task uses.
. "$(dirname "$0")/lib.bash"
need promtool command -v promtool
need prometheus command -v prometheus

new_cgroup busy
in_cgroup "$cgroup" bash -c 'while :; do :; done'
worker=$pid
start agent "$tmp/owca" run --root --output none
agent=$pid
eventually 10 ready || fail "not ready"

cat >"$tmp/prometheus.yml" <<-YAML
	global: {scrape_interval: 1s}
	scrape_configs:
	  - job_name: owca
	    static_configs: [{targets: ["127.0.0.1:9179"]}]
YAML
start prometheus prometheus --config.file="$tmp/prometheus.yml" --storage.tsdb.path="$tmp/tsdb" \
	--web.listen-address=127.0.0.1:9090 --log.level=warn
server=$pid

# query EXPRESSION: its one value; fails until there is one.
query() {
	local answer
	answer=$(promtool query instant http://127.0.0.1:9090 "$1" 2>/dev/null) || return
	[ "$(grep -c . <<<"$answer")" = 1 ] && sed -E 's/^.* => ([^ ]+) @.*$/\1/' <<<"$answer"
}
usage="rate(owca_task_cpu_usage_seconds_total{task_id=\"$cgroup\"}[10s])"
scraped() { [ -n "$(query "count_over_time(up{job=\"owca\"}[1m]) > 12")" ]; }
p0=$(cut -d' ' -f1 "/proc/$worker/schedstat") t0=$(date +%s.%N)
eventually 60 scraped || fail "Prometheus has not scraped the agent"
rate=$(query "$usage") || fail "no answer to $usage"
p1=$(cut -d' ' -f1 "/proc/$worker/schedstat") t1=$(date +%s.%N)
mean=$(awk "BEGIN { print ($p1 - $p0) / 1e9 / ($t1 - $t0) }")
echo "$name: $usage = $rate; /proc says $mean over the whole time"
check "$rate > 0 && $rate <= 1.05" # one process
check "$rate > $mean / 3"          # of a noisy host; endpoint.sh is exact

check "$(query 'min_over_time(up{job="owca"}[1m])') == 1"
check "$(query 'scrape_samples_scraped - scrape_samples_post_metric_relabeling') == 0"
check "$(query 'count({__name__=~"owca_task_.+", task_id="'"$cgroup"'"})') > 10"
check "$(query "count(owca_task_up == 1)") == $(query owca_tasks)"
if grep -Ei 'level=(warn|error)' "$tmp/prometheus.err"; then fail "Prometheus complains"; fi
stop "$server"
stop "$agent"
