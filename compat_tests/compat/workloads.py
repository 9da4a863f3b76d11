"""What runs beside a tool: processes of an unprivileged user that play a scene when told."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from compat_tests.clients.tool import Session, Terminal, Way
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
_FLAGS = [*build.VICTIM_FLAGS, "-fno-omit-frame-pointer"]
_PROMPT = "PS1='rea''dy> '; echo pid $$"  # its echo does not look like the prompt itself
_COMMANDS = ("echo alpha", "true # beta", "x=gamma", "echo last")


def files() -> dict[str, Path]:
    """The actor and its like; uname.so, which has bcc find Debian's kernel headers."""
    found = {"actor": build.make("actor", [HERE / "actor.c"], _FLAGS), "tls.py": HERE / "tls.py",
             "Collector.java": HERE / "Collector.java", "tls.pem": _certificate()}
    releases = sorted(p.parent.name for p in Path("/lib/modules").glob("*/build"))
    if releases:
        flags = [*build.WARN, "-O2", "-shared", "-fPIC", f'-DRELEASE="{releases[-1]}"']
        found["uname.so"] = build.make("uname.so", [HERE / "uname.c"], flags)
    return found


def _certificate() -> Path:
    target = build.CACHE / "tls.pem"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
             "-subj", "/CN=shim", "-keyout", str(target), "-out", f"{target}.crt"],
            check=True, capture_output=True, timeout=60)
        with target.open("a") as file:
            file.write(Path(f"{target}.crt").read_text())
    return target


def _argv(way: Way, argv: list[str]) -> list[str]:
    return launch.guarded(argv) if way.name == "kernel" else way.target(argv)


class Actor(Session):
    """A program that says "pid N", then plays a scene a line and says "did"."""

    def __init__(self, way: Way, argv: list[str]) -> None:
        super().__init__(_argv(way, argv), stdin=subprocess.PIPE)
        try:
            self.until(b"\n")
            found = re.search(rb"pid (\d+)\n", self.seen)
            assert found, self.seen
        except BaseException:
            self.__exit__()
            raise
        self.pid = int(found.group(1))
        self.family = {self.pid}

    def play(self, scene: str) -> None:
        self.seen = b""
        self.send(scene.encode() + b"\n")
        self.until(b"did ")
        self.family |= {int(n) for n in re.findall(rb"child (\d+)", self.seen)}


class Shell(Terminal):
    """bash on a terminal; its scene is a few lines typed."""

    def __init__(self, way: Way) -> None:
        super().__init__(_argv(way, ["/bin/bash", "--norc", "--noprofile", "-i"]), typed=True)
        try:
            self.type(_PROMPT + "\n")
            self.until(b"ready> ")
            found = re.search(rb"pid (\d+)\r", self.seen)
            assert found, self.seen
        except BaseException:
            self.__exit__()
            raise
        self.pid = int(found.group(1))
        self.family = {self.pid}

    def play(self, scene: str) -> None:
        for command in _COMMANDS:
            self.seen = b""
            self.type(command + "\n")
            self.until(b"ready> ")


def start(way: Way, folder: Path, scene: str) -> Actor | Shell:
    """The workload that has the scene."""
    if scene == "bash":
        return Shell(way)
    if scene == "java":
        return Actor(way, ["/usr/bin/java",
                           "-XX:+IgnoreUnrecognizedVMOptions",  # Java 21 has the next no more
                           "-XX:+ExtendedDTraceProbes", "-XX:+UseSerialGC",
                           str(folder / "Collector.java")])
    if scene == "tls":
        return Actor(way, ["/usr/bin/python3", str(folder / "tls.py"), str(folder / "tls.pem")])
    return Actor(way, [str(folder / "actor")])
