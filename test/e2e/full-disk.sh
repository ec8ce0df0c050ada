#!/usr/bin/env bash
# A full disk: each storage says so once, its file stays as it was, the agent and
# the other storages go on, and when there is room again so does the storage.
. "$(dirname "$0")/lib.bash"

mkdir "$tmp/disk"
mount -t tmpfs -o size=2m tmpfs "$tmp/disk"
cd "$tmp"
cat >config.yaml <<-'YAML'
	runner: !MeasurementRunner
	  node: !AutoNode
	  interval: 100ms
	  common_labels: []
	  metrics_storage:
	    - !PrometheusStorage
	    - !LogStorage {output_filename: disk/newest.prom, overwrite: true}
	    - !LogStorage {output_filename: disk/all.prom}
YAML
chmod 644 config.yaml
start agent "$tmp/owca" --root --config config.yaml
agent=$pid
eventually 10 test -s disk/newest.prom || fail "nothing stored"
eventually 10 test -s disk/all.prom || fail "nothing stored"

errors() { get /metrics >metrics && value metrics owca_storage_errors_total "storage=\"$1\""; }
failing() { [ "$(errors "$1")" -ge "$2" ]; }
messages() { grep -cE 'storage (fails|works)' agent.err || :; }
# What a storage gives back when it fails makes room for the other, so fill up
# until both keep failing and nothing is said any more.
full() {
	local one two before
	dd if=/dev/zero of=disk/filler bs=1k oflag=append conv=notrunc 2>/dev/null || :
	before=$(messages) && one=$(errors LogStorage) && two=$(errors LogStorage-2) && sleep 1 &&
		failing LogStorage $((one + 5)) && failing LogStorage-2 $((two + 5)) && [ "$(messages)" = "$before" ]
}
eventually 60 full || fail "a full disk is no error"
cp disk/newest.prom before.newest
cp disk/all.prom before.all
said=$(messages)
ticks=$(value metrics owca_ticks_total)
more=$(($(errors LogStorage) + 10))
eventually 30 failing LogStorage $more || fail "not tried again"
# Eventually, as a storage may be in the middle of failing.
eventually 5 cmp -s disk/newest.prom before.newest || fail "newest.prom was changed"
eventually 5 cmp -s disk/all.prom before.all || fail "all.prom was changed"
check "$(value metrics owca_ticks_total) >= $ticks + 10"
check "$(value metrics owca_storage_errors_total 'storage="PrometheusStorage"') == 0"
eventually 5 test ! -e disk/.newest.prom.tmp || fail "a temporary file is left"
# Both end with whole lines.
for f in disk/newest.prom disk/all.prom; do [ -z "$(tail -c 1 $f)" ] || fail "$f ends within a line"; done

# Said once, not each time.
[ "$(messages)" = "$said" ] || fail "said again"
for storage in LogStorage LogStorage-2; do
	grep -E "storage=$storage( |$)" agent.err | tail -n 1 | grep -q 'storage fails.*no space left on device' || fail "$storage does not say that the disk is full"
done

mount -o remount,size=500m "$tmp/disk"
again() { [ "$(messages)" = $((said + 2)) ] && [ "$(tail -n 2 agent.err | grep -c 'storage works again')" = 2 ]; }
eventually 30 again || fail "does not go on when there is room"
changed() { ! cmp -s disk/newest.prom before.newest; }
eventually 10 changed || fail "newest.prom is not written any more"
stop "$agent"
