# Sourced by the scripts here, each of which tests bin/owca (or $OWCA) on real
# parts, as root, and cleans up after itself. They run in network and mount
# namespaces of their own: every port is free, nothing but 127.0.0.1 can be
# reached, mounts are seen by nobody else. Processes and cgroups are this host's.
# shellcheck shell=bash
set -euo pipefail
name=$(basename "$0" .sh)

fail() {
	echo "$name: $*" >&2
	exit 1
}

# need WHAT COMMAND...: skip the test unless COMMAND succeeds, or fail if
# OWCA_TEST_REQUIRE names WHAT.
need() {
	local what=$1
	shift
	if "$@" >/dev/null 2>&1; then return; fi
	case ,${OWCA_TEST_REQUIRE:-}, in
	*,"$what",*) fail "OWCA_TEST_REQUIRE names $what, which is not here" ;;
	esac
	echo "$name: skipped: needs $what"
	exit 0
}

need root test "$(id -u)" = 0
for program in unshare setpriv; do need $program command -v $program; done
if [ "${OWCA_E2E:-}" != inside ]; then
	OWCA_E2E=inside exec unshare --net --mount --propagation private "$0" "$@"
fi

tmp=$(mktemp -d)
chmod 755 "$tmp"
cgroups=() # directories
cleanup() {
	local pid dir
	# Only those not waited for yet: the id of others may be anybody's by now.
	for pid in $(jobs -p); do kill -KILL "$pid" 2>/dev/null || :; done
	wait 2>/dev/null || :
	for dir in "${cgroups[@]}"; do
		for _ in $(seq 100); do
			for pid in $(cat "$dir/cgroup.procs" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || :; done
			rmdir "$dir" 2>/dev/null && break
			sleep 0.05
		done
		[ ! -e "$dir" ] || { echo "$name: leaving $dir behind" >&2; false; }
	done
	cd /
	umount "$tmp"/*/ 2>/dev/null || :
	rm -rf "$tmp"
}
ended() {
	local status=$?
	trap - EXIT
	if [ $status != 0 ]; then
		for f in "$tmp"/*.err; do [ ! -e "$f" ] || { echo "--- $(basename "$f")"; tail -n 50 "$f"; } >&2; done
	fi
	cleanup || status=1
	[ $status != 0 ] || echo "$name: ok"
	exit $status
}
trap ended EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Up the loopback of this network namespace, of which only a new sysfs tells.
mkdir "$tmp/sys"
mount -t sysfs sysfs "$tmp/sys"
echo 0x9 >"$tmp/sys/class/net/lo/flags" # IFF_UP | IFF_LOOPBACK
umount "$tmp/sys"
rmdir "$tmp/sys"

# The binary, where other users may run it.
cp "${OWCA:-$(dirname "$0")/../../bin/owca}" "$tmp/owca"
chmod 755 "$tmp/owca"

# eventually SECONDS COMMAND...: repeats it until it succeeds.
eventually() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

# get PATH [ACCEPT]: the body of what the agent answers to a GET.
get() (
	exec 3<>/dev/tcp/127.0.0.1/9179 || exit
	printf 'GET %s HTTP/1.0\r\nAccept: %s\r\n\r\n' "$1" "${2:-*/*}" >&3
	read -r _ status _ <&3 && [ "$status" = 200 ] || exit
	sed '1,/^\r$/d' <&3
) 2>/dev/null

# value FILE NAME [LABEL...]: of the one series of a metric with these labels.
value() {
	awk -v name="$2" -v labels="${*:3}" '
		BEGIN { n = split(labels, want, " ") }
		/^#/ { next }
		{
			series = $0; sub(/ [^ ]*$/, "", series)
			if (series != name && index(series, name "{") != 1) next
			for (i = 1; i <= n; i++) if (!index(series, want[i])) next
			print $NF; found++
		}
		END { if (found != 1) { print name " " labels ": " found + 0 " series" >"/dev/stderr"; exit 1 } }' "$1"
}

# check EXPRESSION...: arithmetic of awk.
check() { awk "BEGIN { exit !($*) }" || fail "not so: $*"; }

hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts; }

# new_cgroup NAME: in every hierarchy; its path is in $cgroup.
new_cgroup() {
	local dir file
	cgroup=/owca-e2e-$$-$1
	for dir in $(hierarchies); do
		mkdir "$dir$cgroup"
		cgroups+=("$dir$cgroup")
		# A v1 cpuset takes no process before it has cpus and nodes.
		for file in cpuset.cpus cpuset.mems; do
			[ ! -e "$dir/$file" ] || [ -e "$dir/cgroup.controllers" ] || cat "$dir/$file" >"$dir$cgroup/$file"
		done
	done
}

# in_cgroup CGROUP COMMAND...: in the background, with its process id in $pid.
in_cgroup() {
	local group=$1
	shift
	(
		for dir in $(hierarchies); do echo $BASHPID >"$dir$group/cgroup.procs"; done
		: >"$tmp/moved"
		exec "$@"
	) &
	pid=$!
	eventually 10 test -e "$tmp/moved" || fail "cannot move a process into $group"
	rm "$tmp/moved"
}

# start NAME COMMAND...: in the background; NAME.out, NAME.err, $pid.
start() {
	"${@:2}" >"$tmp/$1.out" 2>"$tmp/$1.err" &
	pid=$!
}

# stop PID: by SIGTERM, which must end it well.
stop() {
	local status=0
	kill -TERM "$1"
	wait "$1" || status=$?
	[ $status = 0 ] || fail "process $1 ends with $status at SIGTERM"
}

ready() { [ "$(get /readyz)" = ok ]; }
