#!/bin/sh
# install.sh HOME_DIR LIBRARY_DIR BIN_DIR: copies the built package and its .venv to HOME_DIR
# and links them where the dynamic loader and the shell look. The backend is found through the
# file beside the library's real path, so that file names the copy.
set -eu
cd "$(dirname "$0")/.."
home=$1 libraries=$2 programs=$3
[ "$(id -u)" = 0 ] || {
	echo "install: root only; without root: LD_PRELOAD=\$(.venv/bin/bpf-shim path)" >&2
	exit 3
}
mkdir -p "$home" "$programs"
rm -rf "$home/libbpf_shim" "$home/.venv"
cp -a libbpf_shim .venv "$home"
find "$home" -name __pycache__ -prune -exec rm -rf {} +
"$home/.venv/bin/python" -m compileall -q "$home/libbpf_shim"
printf '%s\n%s\n' "$home/.venv/bin/python" "$home" >"$home/libbpf_shim/_lib/libbpf_shim.conf"
chmod -R a+rX "$home"
ln -sf "$home/libbpf_shim/_lib/libbpf_shim.so" "$libraries/libbpf_shim.so"
install -m 755 tools/bpf-shim "$home/.venv/bin/bpf-shim"
ln -sf "$home/.venv/bin/bpf-shim" "$programs/bpf-shim"
echo "installed: LD_PRELOAD=libbpf_shim.so, $programs/bpf-shim"
