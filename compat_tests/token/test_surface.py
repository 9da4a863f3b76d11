"""Unmodified loaders with tokens, as an unprivileged user whose bpf(2) is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.oracle import kernel
from compat_tests.token import loader
from compat_tests.victims import build
from libbpf_shim.token import chain, keys
from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import Attach, Claims

HERE = Path(__file__).parent
BOTH = Attach.UPROBE | Attach.TEST_RUN


class Desk:
    """Keys and tokens of the guard's user."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="desk-", dir="/tmp"))
        self.key = self.folder / "key"
        keys.make(self.key)
        self.secret = keys.read(self.key)
        self._give(self.key)
        self._give(self.folder)

    @staticmethod
    def _give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, launch.UID, -1)

    def token(self, name: str, *steps: Claims, key: bytes = b"") -> Path:
        made: Token = chain.mint(key or self.secret, steps[0])
        for step in steps[1:]:
            made = chain.attenuate(made, step)
        path = self.folder / name
        path.write_text(chain.to_text(made) + "\n")
        self._give(path)
        return path

    def run(self, token: Path | None, argv: list[str], key: bool = True) -> Outcome:
        env = {"LIBBPF_SHIM_TOKEN_KEY": str(self.key)} if key else {}
        if token:
            env["LIBBPF_BPF_TOKEN_PATH"] = str(token)
        return run(launch.guarded(argv, preload=True, env=env))

    def log(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in
                self.key.with_name("key.audit").read_text().splitlines()]


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    shutil.rmtree(made.folder)


def _asks(desk: Desk, token: Path | None, key: bool = True) -> tuple[dict[str, Any], str]:
    script = desk.folder / "loader.py"
    script.write_text(Path(loader.__file__).read_text())
    script.chmod(0o644)
    done = desk.run(token, ["/usr/bin/python3", str(script)], key)
    assert done.status == 0, done
    return json.loads(done.out), done.err


FDS = ("file", "folder", "token", "map", "program", "btf")


def test_a_loader_gets_a_token_where_libbpf_looks_for_one(desk: Desk) -> None:
    token = desk.token("two", Claims(map_bytes=1 << 20), Claims(uids=(launch.UID,)))
    found, err = _asks(desk, token)
    assert min(found[name] for name in FDS) >= 0 and not err, (found, err)
    assert found["plain"] >= 0  # the surface has shown the token
    assert found["forked"] == 0  # a fork child shows it again
    assert {line["uid"] for line in desk.log()} == {launch.UID}


@pytest.mark.kernel
def test_the_token_looks_as_the_kernels(desk: Desk) -> None:
    """One of a bpffs that delegates everything."""
    done = run(kernel.as_root(["/usr/bin/python3", str(HERE / "delegated.py")]))
    assert done.status == 0, done
    theirs = json.loads(done.out)
    ours, _ = _asks(desk, desk.token("all", Claims(attach=BOTH)))
    assert min(theirs[name] for name in FDS) >= 0 and min(ours[name] for name in FDS) >= 0
    for name in ("info", "commands", "fdinfo", "link"):
        assert ours[name] == theirs[name], name
    assert len(theirs["fdinfo"]) == 4
    # docs/parity.md: there, only a request that names the token is granted
    assert theirs["plain"] == -errno.EPERM and theirs["forked"] == 1


@pytest.mark.parametrize("how", ["none", "forged"])
def test_a_loader_without_a_good_token_gets_eperm_from_every_call(desk: Desk, how: str) -> None:
    token = desk.token("forged", Claims(attach=BOTH), key=bytes(32)) if how == "forged" else None
    found, err = _asks(desk, token)
    assert found["map"] == found["program"] == found["btf"] == found["plain"] == -errno.EPERM
    assert found["forked"] == 1 and found["token"] < 0
    assert err.count("libbpf_shim: token: ") >= 1 and err.count("\n") <= 2, err
    last = desk.log()[-1]
    assert (last["verdict"], last["op"], last["token"]) == ("refused", "hello", None)


def test_without_a_key_a_token_changes_nothing(desk: Desk) -> None:
    token = desk.token("ignored", Claims(attach=Attach(0), map_bytes=0))
    with_it, said = _asks(desk, token, key=False)
    without, said_too = _asks(desk, None, key=False)
    assert not said and not said_too  # each start of libbpf 1.5 asks
    for found in (with_it, without):
        assert found["token"] < 0 and found["plain"] >= 0 and not found["forked"]
        assert found["map"] in (-errno.EBADF, -errno.EINVAL)
    assert with_it["token"] == -errno.EOPNOTSUPP


def test_bpftrace_attaches_what_its_token_grants(desk: Desk, victim: Path) -> None:
    program = f"uprobe:{victim}/calls:v_add {{ @ = count(); }}"
    argv = ["bpftrace", "-e", program, "-c", f"{victim}/calls -n 7"]
    done = desk.run(desk.token("may", Claims(attach=BOTH)), argv)
    assert done.status == 0 and "@: 7" in done.out, done
    done = desk.run(desk.token("may not", Claims(attach=BOTH), Claims(attach=Attach.TEST_RUN)),
                    argv)
    assert done.status != 0 and "@: 7" not in done.out, done
    assert "not granted: attach uprobe" in done.err
    last = [line for line in desk.log() if line["op"] == "attach"][-1]
    assert last["verdict"] == "refused" and last["missing"] == "attach uprobe"
    assert last["comm"] == "bpftrace"


@pytest.mark.parametrize(("size", "said"), [(1 << 20, "token 0 map 0"), (0, "token 0 map -1")])
def test_a_static_loader_shows_its_token_too(desk: Desk, size: int, said: str) -> None:
    made = build.make("token-static", [HERE / "static.c"],
                      [*build.WARN, "-O1", "-static"])
    argv = launch.shim_run([str(made)])
    token = desk.token(f"static {size}", Claims(map_bytes=size))
    at = argv.index("--")
    argv[at:at] = ["--env", f"LIBBPF_SHIM_TOKEN_KEY={desk.key}",
                   "--env", f"LIBBPF_BPF_TOKEN_PATH={token}"]
    done = run(argv)
    assert done.status == 0 and done.out.strip() == said, done
