"""A daemon of one user, an application of the same user's, and loaders of two others."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.serve.intruder import Intruder
from compat_tests.victims import build
from libbpf_shim.cli.sessions import ask
from libbpf_shim.token import chain, keys
from libbpf_shim.token.claims import EVERYWHERE, Claims

HERE = Path(__file__).parent
MANAGER = launch.UID
ALICE, BOB = MANAGER + 1000, MANAGER + 2000
INTERFACE = """interface: app
binary: {folder}/app
types: {{dwarf: {folder}/app}}
entries:
  handle: {{function: app_handle, where: before, nonnull: [r],
           offers: [read(r.uri), write(r.status)]}}
"""
GRANTS = f"""grants: test
interface: app.yaml
classes:
  watch: {{entries: [handle], allow: [read(r.uri.len), map(array), map(hash),
          helper(map_lookup_elem), helper(map_update_elem)], instructions: 1000}}
  mark: {{entries: [handle], allow: [write(r.status), map(array), map(hash)]}}
bindings:
- {{class: watch, name: "watch_*"}}
- {{class: mark, name: mark_status, users: [{BOB}]}}
"""
CODE = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')")
LIMIT = 60.0


def python(script: Path, *arguments: str) -> list[str]:
    """A script of these tests with the product's Python."""
    product = launch.product()
    return [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product), str(script),
            *arguments]


def shim(*arguments: str) -> list[str]:
    """bpf-shim with arguments."""
    product = launch.product()
    return [str(product / ".venv/bin/python"), "-I", "-c",
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from libbpf_shim.cli import main; "
            "sys.exit(main())", str(product), *arguments]


def as_user(uid: int, argv: list[str], env: dict[str, str] | None = None) -> list[str]:
    """Under the guard, as that user."""
    who = ["--uid", str(uid)] if uid else ["--root"]
    command = [str(build.guard()), *who, "--chdir", "/"]
    for name, value in (env or {}).items():
        command += ["--env", f"{name}={value}"]
    return [*command, "--", *argv]


class Application:
    """The protected application, its library preloaded."""

    def __init__(self, folder: Path, uid: int = MANAGER) -> None:
        self.process = subprocess.Popen(
            as_user(uid, [f"{folder}/app"], {"LD_PRELOAD": str(launch.library())}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def handle(self, length: int = 1) -> int:
        """The status that a hundred requests come to."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{length}\n")
        self.process.stdin.flush()
        assert select.select([self.process.stdout], [], [], LIMIT)[0], "it does not answer"
        return int(self.process.stdout.readline())

    def close(self) -> int:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        code = self.process.wait(LIMIT)
        self.process.stdout.close()
        return code


def _user(pid: int) -> int | None:
    """Whom a backend of a daemon's serves; None: it is another session's (backend/guests.py)."""
    said = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]
    return int(json.loads(said)["uid"]) if said.startswith(b"{") else None


class World:
    """options: of bpf-shim serve. daemon: whose it is; the application is his, or, where --user is
    among the options, the manager's."""

    def __init__(self, *options: str, key: bool = False, daemon: int = MANAGER) -> None:
        self.owner = daemon
        self.folder = build.private_copy({
            "app": build.make("serve-app", [HERE / "app.c"], ["-g", "-O1"]),
            "ext.bpf.o": build.make("serve-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                    compiler=build.CLANG),
            "loader.py": HERE / "loader.py"})
        self.run = self.folder / "manager"  # what only the manager writes
        self.policy, self.at = self.run / "policy", self.run / "serve"
        for path in (self.run, self.policy):
            path.mkdir(mode=0o755)
        self.grant(GRANTS)
        self.key = b""
        if key:
            keys.make(self.run / "key")
            self.key = keys.read(self.run / "key")
            os.chown(self.run / "key", daemon, daemon)
            options = (*options, "--token-key", str(self.run / "key"))
        (self.policy / "app.yaml").write_text(INTERFACE.format(folder=self.folder))
        for path in (self.run, self.policy, *self.policy.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.chown(path, daemon, daemon)
        self.audit = self.run / "policy.audit"
        self.daemon = subprocess.Popen(
            as_user(daemon, shim("serve", "--policy", str(self.policy), "--at", str(self.at),
                                  *options)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.daemon.stdout and self.daemon.stderr
        self.said = self.daemon.stdout.readline()
        if self.said != f"{self.at}\n":
            raise RuntimeError(self.daemon.communicate(timeout=LIMIT)[1])
        self.application = Application(self.folder, MANAGER if "--user" in options else daemon)

    def grant(self, text: str) -> None:
        """Other grants from now on."""
        new = self.policy / ".new"
        new.write_text(text)
        new.chmod(0o644)
        os.chown(new, self.owner, self.owner)
        new.rename(self.policy / "grants.yaml")

    def env(self) -> dict[str, str]:
        return {"LIBBPF_SHIM_SERVER": str(self.at)}

    def loader(self, uid: int, *arguments: str, **env: str) -> Outcome:
        """loader.py as that user, to its end."""
        return run(as_user(uid, python(self.folder / "loader.py", f"{self.folder}/ext.bpf.o",
                                       f"{self.folder}/app", *arguments), self.env() | env))

    def begin(self, uid: int, *arguments: str) -> subprocess.Popen[str]:
        """The same, and it goes on: it ends when its input does."""
        return subprocess.Popen(
            as_user(uid, python(self.folder / "loader.py", f"{self.folder}/ext.bpf.o",
                                f"{self.folder}/app", *arguments), self.env()),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def intruder(self, uid: int, **env: str) -> Intruder:
        """A process of that user's that does what it is told."""
        return Intruder(uid, self.env() | env)

    def token(self, claims: Claims) -> str:
        """A file with a token of the daemon's key, which all may read."""
        root = chain.mint(self.key, Claims(attach=EVERYWHERE))
        path = self.folder / f"token-{len(list(self.folder.iterdir()))}"
        path.write_text(chain.to_text(chain.attenuate(root, claims)))
        path.chmod(0o644)
        return str(path)

    def refusal(self, uid: int) -> dict[str, Any]:
        """The log's last line, which says that something was refused to that user."""
        last = self.log()[-1]
        assert (last["verdict"], last["uid"]) == ("refused", uid), last
        return last

    def sessions(self) -> dict[int, Path]:
        """Folders of the sessions that the daemon has, by the process that serves each."""
        found = {}
        for folder in (launch.RUN_DIR / "sessions").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(ask(folder / "sock")["pid"])
                if _user(pid) is not None:
                    found[pid] = folder
        return found

    def backend(self, uid: int) -> int:
        """The process that serves that user."""
        for pid in self.sessions():
            if _user(pid) == uid:
                return pid
        raise AssertionError(f"nobody serves user {uid}")

    def over(self, pid: int) -> None:
        """Waits for the end of a process that serves a session nobody needs any more."""
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                assert select.select([pidfd], [], [], LIMIT)[0], f"process {pid} does not end"
            finally:
                os.close(pidfd)

    def log(self) -> list[dict[str, Any]]:
        """Every line of the audit log."""
        return [json.loads(line) for line in self.audit.read_text().splitlines()]

    def close(self) -> None:
        self.application.close()
        self.daemon.terminate()
        self.daemon.communicate(timeout=LIMIT)
        shutil.rmtree(self.folder)
