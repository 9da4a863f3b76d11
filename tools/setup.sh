#!/bin/sh
# setup.sh: from a bare Debian 12 or 13 with python3 and make to a place where `make build` works.
# Distribution packages (as root; else what is missing is named), then .venv. Each step leaves
# a stamp named by its inputs, so that a second run does nothing.
set -u
cd "$(dirname "$0")/.." || exit 2
PYTHON=/usr/bin/python3
# this|that: either will do; installed is the first that apt knows (Debian 12's, then any later's)
PACKAGES="bpftrace libbpf-tools bpftool libbpf-dev libelf-dev zlib1g-dev clang-14|clang
	clang-format-14|clang-format
	gcc libc6-dev binutils make gdb libunwind-dev python3-venv python3-dev musl-tools golang-go
	bpfcc-tools linux-headers-amd64 openjdk-17-jdk-headless|default-jdk-headless g++
	nginx-light nginx-dev redis-server redis-tools postgresql-15|postgresql wrk curl openssl
	qemu-system-x86 runsc"
stamps=.cache/stamps
mkdir -p $stamps

missing() {
	for either in $PACKAGES; do
		# shellcheck disable=SC2086
		(IFS='|'; dpkg-query -W -f='${Status}\n' $either 2>/dev/null) | grep -q ' installed$' ||
			printf '%s ' "$(known "$either")"
	done
}

known() {
	for package in $(echo "$1" | tr '|' ' '); do
		apt-cache show "$package" >/dev/null 2>&1 && echo "$package" && return
	done
	echo "${1%%|*}"
}

lack=$(missing)
if [ -n "$lack" ] && [ "$(id -u)" = 0 ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >.cache/apt.log 2>&1
	lack=$(missing)
	echo "setup: apt-get install $lack"
	# shellcheck disable=SC2086
	apt-get install -q -y --no-install-recommends $lack >>.cache/apt.log 2>&1 ||
		tail -3 .cache/apt.log
	lack=$(missing)
fi
[ -z "$lack" ] || {
	echo "setup: not installed: $lack" >&2
	echo "hint: as root: apt-get install $lack" >&2
}

# The kernel of the guest that has protection keys (compat_tests/keys): a file of a package that is not
# installed. Without it those tests are skipped.
guest=.cache/guest
if [ ! -e $guest/vmlinuz ]; then
	mkdir -p $guest
	kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1)
	if [ -n "$kernel" ] && (cd $guest && apt-get download "$kernel" >../apt-guest.log 2>&1); then
		dpkg-deb --fsys-tarfile $guest/linux-image-*.deb |
			tar -xO --wildcards './boot/vmlinuz-*' >$guest/vmlinuz.new &&
			[ -s $guest/vmlinuz.new ] && mv $guest/vmlinuz.new $guest/vmlinuz
	fi
	rm -f $guest/linux-image-*.deb $guest/vmlinuz.new
	[ -e $guest/vmlinuz ] || echo "setup: no kernel for a guest: compat_tests/keys is skipped" >&2
fi

wanted=$stamps/venv-$(cat tools/requirements.txt | sha256sum | cut -c1-16)
if [ ! -e "$wanted" ] || [ ! -x .venv/bin/python ]; then
	[ -x .venv/bin/python ] || $PYTHON -m venv .venv || {
		echo "setup: no virtual environment: is python3-venv there?" >&2
		exit 3
	}
	.venv/bin/python -m pip install -q --disable-pip-version-check \
		-r tools/requirements.txt || {
		echo "setup: pip could not install tools/requirements.txt" >&2
		exit 3
	}
	touch "$wanted"
fi
