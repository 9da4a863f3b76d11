"""bashreadline, gethostlatency and funclatency see what the kernel lets them see."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.processes import Victim
from compat_tests.clients.tool import KERNEL, SHIM, Session, Terminal, Way

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
PROMPT = "PS1='rea''dy> '; echo pid $$"  # its echo does not look like the prompt itself
COMMANDS = ["echo alpha", "true # beta", "x=gamma"]
LOOKUPS = "import socket\nfor h in ('127.0.0.1', '127.0.0.2', 'localhost'):\n" \
          "    input(); socket.getaddrinfo(h, 80); print('looked', flush=True)"


def tool(way: Way, *argv: str) -> Terminal:
    return Terminal(way.tool(list(argv)))


@pytest.mark.parametrize("way", WAYS)
def test_bashreadline_shows_what_is_typed(way: Way) -> None:
    shell_argv = way.target(["/bin/bash", "--norc", "--noprofile", "-i"])
    with tool(way, "bashreadline") as reader:
        reader.until(b"COMMAND")
        with Terminal(shell_argv, typed=True) as shell:
            shell.type(PROMPT + "\n")
            shell.until(b"ready> ")
            found = re.search(rb"pid (\d+)\r", shell.seen)
            assert found, shell.seen
            reader.until(b"echo pid")
            for command in COMMANDS:
                shell.seen = b""
                shell.type(command + "\n")
                shell.until(b"ready> ")
                reader.until(command.encode())
            shell.type("exit\n")
        out = reader.interrupt()
    seen = re.findall(rf"^\S+ +{int(found.group(1))} +(.*)$", out, re.M)
    typed = [line.strip() for line in seen]
    if typed[-1] == "exit":  # the tool is interrupted meanwhile: it may have printed it or not
        typed.pop()
    assert typed == [PROMPT, *COMMANDS]


@pytest.mark.parametrize("way", WAYS)
def test_gethostlatency_shows_each_lookup(way: Way) -> None:
    argv = way.target(["/usr/bin/python3", "-c", LOOKUPS])
    with Session(argv, stdin=subprocess.PIPE) as client, tool(way, "gethostlatency") as watcher:
        watcher.until(b"HOST")
        for host in ("127.0.0.1", "127.0.0.2", "localhost"):
            client.seen = b""
            client.send(b"\n")
            client.until(b"looked")
            watcher.until(host.encode())
        pid = client.child.pid
        out = watcher.interrupt()
    rows = re.findall(r"^\S+ +(\d+) +(\S+) +([\d.]+) +(\S+)$", out, re.M)
    ours = [(comm, host) for row_pid, comm, _, host in rows if int(row_pid) == pid]
    assert ours == [("python3", h) for h in ("127.0.0.1", "127.0.0.2", "localhost")]
    assert all(float(row[2]) >= 0 for row in rows)


def counted(out: bytes) -> int:
    """Sum of the last histogram in a tool's output; it counts on from one to the next."""
    last = out.rpartition(b"nsec ")[2]
    return sum(int(n) for n in re.findall(rb"-> *\d+ *: (\d+) +\|", last))


@pytest.mark.parametrize("named", ["by pid", "by path"])
@pytest.mark.parametrize("way", WAYS)
def test_funclatency_counts_calls_of_a_users_function(
    way: Way, named: str, victim: Path
) -> None:
    with Victim(way, victim) as process:
        where = ["-p", str(process.pid), ":v_greet"]
        if named == "by path":
            where = [f"{victim}/calls:v_greet"]
        # a histogram a second: a tool that is interrupted before it sleeps prints none
        with tool(way, "funclatency", "-i", "1", *where) as timer:
            timer.until(b"Hit Ctrl-C")
            process.rounds(500)
            while counted(timer.seen) < 500:
                timer.seen += timer.line()
            timer.interrupt()
        process.finish()
    assert counted(timer.seen) == 500, timer.seen
