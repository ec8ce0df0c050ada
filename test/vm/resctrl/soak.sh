#!/bin/busybox sh
# Tasks, processes and the groups of others come and go for $1 seconds; the agent
# holds no more for it, says nothing unexpected and leaves nothing. There are more
# tasks than RMIDs.
# shellcheck shell=dash source=test/vm/resctrl/lib.sh
. /host/program/lib.sh
seconds=$1
live=40 # cgroups that come and go

mounted || mount -t resctrl resctrl $fs
now() { cut -d. -f1 /proc/uptime; }

# Children of PID 1, which reaps them.
born() {
	(sh -c 'echo $$ >"/sys/fs/cgroup/$0/cgroup.procs"; while :; do usleep 300000; done' "$1" &)
}
# The groups of somebody else, who also takes one of ours away, and processes.
others() {
	local victim
	case $(($1 % 60)) in
	0) mkdir $fs/foreign && head -n 1 /sys/fs/cgroup/soak/steady-2/cgroup.threads >$fs/foreign/tasks ;;
	10) mkdir $fs/mon_groups/foreign ;;
	20)
		victim=$(ours | head -n 1 | cut -d' ' -f1)
		[ ! "$victim" ] || rmdir "$victim"
		;;
	30) head -n 1 /sys/fs/cgroup/soak/steady-1/cgroup.threads >$fs/tasks ;;
	40) rmdir $fs/foreign ;;
	50) rmdir $fs/mon_groups/foreign ;;
	esac 2>/dev/null || :
}

mkdir /sys/fs/cgroup/soak
echo +pids >/sys/fs/cgroup/soak/cgroup.subtree_control
for n in 1 2 3; do
	mkdir /sys/fs/cgroup/soak/steady-$n
	cgroups="$cgroups soak/steady-$n"
	born soak/steady-$n
done
cgroups="$cgroups soak"
node='!AutoNode {include: ["/soak/**"]}'
configure 'rdt_enabled: true'
start
eventually above 0 owca_task_llc_occupancy_bytes 'task_id="/soak/steady-1"' || fail "does not begin"

status() { awk -v name="$1:" '$1 == name { print $2 }' /proc/$agent/status; }
sample() {
	running
	set -- "$1" "$(status VmRSS)" "$(find /proc/$agent/fd 2>/dev/null | wc -l)" "$(status Threads)" "$(ours | wc -l)" "$made"
	echo "$*" >>samples
	echo "soak: $1 s: rss $2 KiB, $3 open files, $4 threads, $5 groups, $6 cgroups made"
}
begin=$(now) made=0 sampled=0
while at=$(($(now) - begin)) && [ $at -lt "$seconds" ]; do
	mkdir /sys/fs/cgroup/soak/n$made
	born soak/n$made
	[ $((made % 5)) != 0 ] || born soak/n$made
	made=$((made + 1))
	if [ $made -gt $live ]; then
		end_cgroup soak/n$((made - live - 1))
	fi
	others $made
	[ $((made % 4)) != 0 ] || usleep 100000
	if [ $at -ge $sampled ]; then
		sample $at
		sampled=$((at + (seconds + 19) / 20))
	fi
done
sample "$at"
while [ $made -gt 0 ] && [ -e /sys/fs/cgroup/soak/n$((made - 1)) ]; do
	made=$((made - 1))
	end_cgroup soak/n$made
done
rmdir $fs/foreign $fs/mon_groups/foreign 2>/dev/null || :
eventually above 0 owca_task_llc_occupancy_bytes 'task_id="/soak/steady-1"' || fail "a task that stays is not monitored any more"
stop
none_ours || fail "groups are left: $(ours)"
[ "$(find $fs -mindepth 1 -maxdepth 1 -type d | wc -l)" = "$(find $fs/info $fs/mon_data $fs/mon_groups -maxdepth 0 | wc -l)" ] || fail "left: $(ls $fs)"

# Memory has settled after a third of the time. How many files are open depends on how many tasks
# there happen to be: it is the most that does not rise.
awk -v seconds="$seconds" '
	!settled && $1 >= seconds / 3 { settled = 1; rss = $2 }
	{ last = $2 }
	$1 < seconds * 2 / 3 { if ($3 > before) before = $3; next }
	{ if ($3 > after) after = $3 }
	END {
		printf "soak: rss %d KiB after a third, %d at the end; %d open files at most, %d in the last third\n", rss, last, before, after
		exit !(last <= rss * 1.1 + 2048 && after > 0 && after <= before * 1.1 + 24)
	}' samples || fail "it holds more and more"
sed -E 's/^time=[^ ]+ //; s/[0-9]+/N/g' agent.err | sort | uniq -c | sort -rn | head -n 30
bad=$(grep -E 'level=(ERROR|CRITICAL)|panic|goroutine' agent.err || :)
[ -z "$bad" ] || fail "said: $bad"
umount $fs
