#!/bin/busybox sh
# Somebody unmounts resctrl while the agent runs, and mounts it again; it is mounted
# read-only.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh

mounted || mount -t resctrl resctrl $fs
for task in gold silver bronze; do spin $task; done
configure 'rdt_enabled: true'
start
sees gold silver bronze
umount -l $fs
gone() { ! value owca_task_llc_occupancy_bytes 'task_id="/gold"' && above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"'; }
eventually gone || fail "still tells an occupancy, or nothing at all: $(cat out.prom)"
# The kernel's one superblock lives as long as a file of it is open.
eventually mount -t resctrl resctrl $fs 2>/dev/null || fail "cannot be mounted again"
sees gold silver bronze
stop
none_ours || fail "groups are left: $(ours)"
no_errors
umount $fs

mount -t resctrl -o ro resctrl $fs
rm agent.err
configure
start
eventually above 0 owca_task_cpu_usage_seconds_total 'task_id="/gold"' || fail "does not measure the rest"
eventually grep -qi 'read-only' agent.err || fail "does not say that it is mounted read-only"
stop
no_errors
umount $fs
