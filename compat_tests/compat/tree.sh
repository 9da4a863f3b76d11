#!/bin/sh
# A tree of processes as builds and services make them: make, the shell, a compiler's parts, fork,
# vfork, posix_spawn, threads, a static program, a clean environment, an interpreter. $1: folder with actor, still.
set -e
cd "$1"
work=$(mktemp -d /tmp/tree-XXXXXX)
printf 'int main(void) { return 0; }\n' > "$work/one.c"
printf 'all: one two\none: one.c\n\tcc -o one one.c\ntwo: one\n\tcp one two; ./two\n' > "$work/Makefile"
make -s -C "$work"
printf 'execs\nthreads\nexits\nopens\ncalls\nspins\n' | ./actor > "$work/said"
./still "$work/none"
env -i ./still /nonexistent/clean
env -i /bin/sh -c 'cat /etc/hostname > /dev/null; /bin/true; exec /bin/true clean'
(cat /etc/hosts | wc -l) > "$work/lines"
python3 -c 'import os, subprocess, threading
subprocess.run(["/bin/true"])
os.posix_spawn("/bin/true", ["true"], {**os.environ})
os.wait()
if not os.fork():
    os._exit(0)
os.wait()
t = [threading.Thread(target=lambda: open("/etc/passwd").close()) for _ in range(4)]
[x.start() for x in t]; [x.join() for x in t]'
rm -r "$work"
echo tree done
