"""bpf-shim: exit codes, environments, lists; stdout is data."""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from libbpf_shim.attach.connector import reason
from libbpf_shim.backend.served import Limits
from libbpf_shim.cli import MODULES, parser, preload

ROOT = Path(__file__).resolve().parents[2]
MESSAGE = struct.Struct("<HHIIiII")  # struct shim_msg
SAID = {"session": 7, "maps": [{"id": 9, "type": "hash", "name": "counts", "max_entries": 10},
                               {"id": 4, "type": "array", "name": ""}],
        "progs": [], "links": []}


def shim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "libbpf_shim", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=60, env={**os.environ, **environment},
    )


def verbs(of: argparse.ArgumentParser) -> list[str]:
    (found,) = (action.choices for action in of._actions
                if isinstance(action, argparse._SubParsersAction))
    return list(found)


def test_a_verb_has_what_it_needs_and_nothing_of_others() -> None:
    every = verbs(parser())
    assert every == verbs(parser("--help")) == [verb for its in MODULES.values() for verb in its]
    for its in MODULES.values():
        assert all(verbs(parser(verb)) == list(its) for verb in its)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from libbpf_shim.cli import parser; parser('run'); "
         "print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"libbpf_shim.attach", "libbpf_shim.jit", "libbpf_shim.cli.token"} & set(
        done.stdout.split())


@pytest.fixture
def fake_session(tmp_path: Path) -> Iterator[Path]:
    """A run directory with one session that answers SHIM_OP_STATUS, and one that is dead."""
    sessions = tmp_path / "libbpf_shim" / "sessions"
    (sessions / "7").mkdir(parents=True, mode=0o700)
    (sessions / "8").mkdir(mode=0o700)
    (tmp_path / "libbpf_shim").chmod(0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(sessions / "7" / "sock"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                magic, op, seq, _, _, _, _ = MESSAGE.unpack(connection.recv(MESSAGE.size))
                text = json.dumps(SAID).encode()
                connection.sendall(MESSAGE.pack(magic, op, seq, len(text), 0, 0, 0) + text)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield tmp_path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_no_verb_is_asked_wrongly() -> None:
    done = shim()
    assert done.returncode == 2 and done.stdout == "" and "usage" in done.stderr


def test_run_preloads_and_keeps_what_was_preloaded() -> None:
    library = shim("path").stdout.strip()
    done = shim("run", "--", "/usr/bin/printenv", "LD_PRELOAD", LD_PRELOAD="")
    assert done.stdout.strip() == library
    both = preload.preload_value("/lib/a.so /lib/b.so")
    assert both == f"{library}:/lib/a.so:/lib/b.so"
    assert preload.preload_value(both) == both


def test_run_ends_with_the_commands_status() -> None:
    assert shim("run", "--", "/bin/sh", "-c", "exit 9").returncode == 9


def test_run_of_nothing_and_of_an_absent_command_say_so() -> None:
    assert shim("run").returncode == 2
    done = shim("run", "/no/such/command")
    assert done.returncode == 127 and "/no/such/command" in done.stderr


def test_the_version_is_the_packages() -> None:
    done = shim("--version")
    (wanted,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert (done.returncode, done.stdout) == (0, f"bpf-shim {wanted}\n")


@pytest.mark.parametrize("verb", ["load", "verify"])
def test_a_file_that_is_no_object_is_named_as_it_was_asked_for(verb: str, tmp_path: Path) -> None:
    script = tmp_path / "tool.sh"
    script.write_text("true\n")
    for path, why in ((script, "not a BPF object: no ELF header"),
                      (tmp_path / "none.o", "cannot be read: No such file or directory")):
        done = shim(verb, str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"bpf-shim: {path}: {why}\n"


@pytest.mark.parametrize("number", ["-5", "0", "server"])
def test_what_is_no_process_number_is_asked_wrongly(number: str) -> None:
    done = shim("attach", number)
    assert done.returncode == 2 and f"no process number: {number!r}" in done.stderr


def test_serve_says_the_limits_that_it_has() -> None:
    text = shim("serve", "--help").stdout
    for name, most in asdict(Limits()).items():
        shown = f"{most >> 20}M" if name.endswith("bytes") else most
        assert re.search(rf"--{name.replace('_', '-')} N .*\({shown}\)", text), name


def test_env_can_be_evaluated() -> None:
    script = f'eval "$({sys.executable} -m libbpf_shim env)"; printf %s "$LD_PRELOAD"'
    done = subprocess.run(["/bin/sh", "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, env={"PATH": os.environ["PATH"]})
    assert done.stdout == str(preload.library())


def test_env_help_lists_every_variable() -> None:
    done = shim("env", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in preload.VARIABLES)
    reference = (ROOT / "docs" / "reference" / "environment.md").read_text()
    assert all(f"`{name}`" in reference for name in preload.VARIABLES)


def test_lists_are_of_all_live_sessions_and_name_the_dead_on_stderr(fake_session: Path) -> None:
    done = shim("map", "list", "-j", XDG_RUNTIME_DIR=str(fake_session))
    assert done.returncode == 0
    assert [(m["id"], m["type"], m["session"]) for m in json.loads(done.stdout)] == [
        (4, "array", "7"), (9, "hash", "7")]
    assert "session 8" in done.stderr
    text = shim("map", "show", XDG_RUNTIME_DIR=str(fake_session)).stdout.splitlines()
    assert text[1].startswith("9: hash  name counts  max_entries 10")
    assert json.loads(shim("prog", "list", "-j", XDG_RUNTIME_DIR=str(fake_session)).stdout) == []


def test_doctor_names_the_dead_session(fake_session: Path) -> None:
    done = shim("doctor", "-j", XDG_RUNTIME_DIR=str(fake_session))
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert found["sessions"]["state"] == "limited"
    assert "stale: 8" in found["sessions"]["what"]


def test_doctor_says_how_newcomers_are_found(tmp_path: Path) -> None:
    done = shim("doctor", "-j", XDG_RUNTIME_DIR=str(tmp_path))
    row = next(row for row in json.loads(done.stdout) if row["check"] == "newcomers")
    why = reason(5.0)
    assert row["state"] == ("limited" if why else "ok"), (row, why)
    assert ("milliseconds" in row["what"]) == (not why) and why in row["what"]


def test_doctor_calls_a_run_directory_of_others_broken(tmp_path: Path) -> None:
    (tmp_path / "libbpf_shim").mkdir(mode=0o755)
    done = shim("doctor", "-j", XDG_RUNTIME_DIR=str(tmp_path))
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 3
    assert found["run directory"]["state"] == "broken"
    assert "mode 755" in found["run directory"]["what"]
