"""A session with a key: who is let in, what is granted, what its log says.

Attacks bear the names that docs/security.md has.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.token import room
from compat_tests.token.room import Room
from compat_tests.token.test_judge import program_at_most
from libbpf_shim.backend.audit import Audit
from libbpf_shim.backend.gate import Gate, Permit
from libbpf_shim.client.session import Command, Session
from libbpf_shim.eim import builds
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.token import chain, claims, keys
from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import Attach, Claims
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd, bpf_prog_type

MAP_SIZE = 8192  # bytes of the file of a small array: its values, its header


@pytest.fixture(scope="module")
def here() -> Iterator[Room]:
    with pytest.MonkeyPatch.context() as patch:
        made = Room(patch)
        yield made
        made.close()


def denied(here: Room, missing: str, op: str = "hello") -> None:
    """The log's last line says so."""
    last = here.log()[-1]
    assert (last["verdict"], last["op"]) == ("refused", op) and missing in last["missing"], last
    assert last["uid"] == os.geteuid() and last["pid"] == os.getpid()
    assert last["comm"] == Path("/proc/self/comm").read_text().strip()


def _wider(here: Room) -> Token:
    token = here.token(Claims(map_bytes=4096))
    step = claims.encode(Claims(map_bytes=8192))
    return Token(token.nonce, (*token.steps, step), chain._next(token.link, step))


def _swapped(here: Room) -> Token:
    token = here.token(Claims(map_bytes=9), Claims(uids=(os.geteuid(),)))
    return Token(token.nonce, (token.steps[0], token.steps[2], token.steps[1]), token.link)


def _cut(here: Room) -> Token:
    token = here.token(Claims(map_bytes=9))
    return Token(token.nonce, token.steps[:-1], token.link)


def _revoked(here: Room) -> Token:
    token = here.token(Claims(map_bytes=77))
    keys.revoke(here.key, token.ids[-1])
    return chain.attenuate(token, Claims(map_bytes=7))


FORGED = "not a valid one"
STRANGERS: dict[str, tuple[Callable[[Room], bytes | None | Token], str]] = {
    "no token": (lambda here: None, "needs one"),
    "an empty token": (lambda here: b"", "needs one"),
    "forged": (lambda here: chain.mint(bytes(32), Claims(attach=claims.EVERYWHERE)), FORGED),
    "truncated": (lambda here: here.text(here.root)[:-9], FORGED),
    "a step taken away": (_cut, FORGED),
    "reordered": (_swapped, FORGED),
    "widened": (_wider, "map_bytes: a step grants more"),
    "expired": (lambda here: here.token(Claims(expires=int(time.time()) - 1)), "expired"),
    "revoked": (_revoked, "revoked"),
    "another user's": (lambda here: here.token(Claims(uids=(os.geteuid() + 1,))),
                       f"uid {os.geteuid()}"),
    "written in another way": (lambda here: b" " + here.text(here.root), FORGED),
    "too long": (lambda here: b"bst1." + b"A" * 100_000, FORGED),
}
GENUINE = ("expired", "revoked", "another user's")


@pytest.mark.parametrize("attack", STRANGERS)
def test_who_is_not_let_in(here: Room, attack: str) -> None:
    make, missing = STRANGERS[attack]
    brought = make(here)
    lines = len(here.log())
    with pytest.raises(ShimError) as refused:
        here.join(brought)
    assert refused.value.errno == errno.EPERM
    denied(here, missing)
    name = brought.ids[-1].hex() if isinstance(brought, Token) and attack in GENUINE else None
    assert len(here.log()) == lines + 1 and here.log()[-1]["token"] == name


def test_a_token_path_that_is_a_pipe_holds_nobody_up(
    here: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(here.folder / "pipe")
    monkeypatch.setenv("LIBBPF_BPF_TOKEN_PATH", str(here.folder / "pipe"))
    with pytest.raises(ShimError) as refused:
        Session.of(Path(here.first.folder))
    assert refused.value.errno == errno.EPERM


def test_who_is_let_in_is_logged_with_the_tokens_name(here: Room) -> None:
    token = here.token(Claims(expires=int(time.time()) + 3600))
    here.join(token)
    last = here.log()[-1]
    assert (last["verdict"], last["op"]) == ("admitted", "hello")
    assert last["token"] == token.ids[-1].hex() and last["missing"] == ""


def test_programs_are_loaded_as_the_token_says(here: Room) -> None:
    session = here.join(here.token(Claims(program=program_at_most("insn_cnt", 2))))
    with_two = room.load(session)
    assert with_two.fd >= 0
    last = here.log()[-1]
    assert (last["op"], last["verdict"], last["what"]) == ("load", "admitted", "p")
    assert len(last["tag"]) == 16
    assert room.load(session, room.RETURN_0[:8] + room.RETURN_0).ret == -errno.EPERM
    denied(here, "program: it says no", "load")
    assert len(here.log()[-1]["tag"]) == 16
    os.close(with_two.fd)


def test_a_class_is_not_granted_to_a_program_that_has_none(here: Room) -> None:
    session = here.join(here.token(Claims(classes=("observe",))))
    assert room.load(session).ret == -errno.EPERM
    denied(here, "a program without a class", "load")


def test_bytes_of_maps_are_those_of_all_that_comes_of_a_token(here: Room) -> None:
    parent = here.token(Claims(map_bytes=2 * MAP_SIZE))
    one, two = (here.join(chain.attenuate(parent, Claims(map_bytes=size)))
                for size in (MAP_SIZE, 2 * MAP_SIZE))
    mine = room.new_map(one, 100)
    assert mine.fd >= 0
    assert room.new_map(one, 1).ret == -errno.EPERM  # its own limit
    denied(here, f"map_bytes {2 * MAP_SIZE}", "map")
    theirs = room.new_map(two, 100)
    assert theirs.fd >= 0
    assert room.new_map(two, 1).ret == -errno.EPERM  # the parent's
    os.close(theirs.fd)
    two.request(two.lib.SHIM_OP_ROOM, b"")
    again = room.new_map(two, 100)
    assert again.fd >= 0
    os.close(again.fd)
    os.close(mine.fd)


def _attached(session: Session, path: str, offset: int, config: int = 0) -> int:
    """0, or the errno of one of the steps."""
    prog = room.load(session)
    try:
        target = room.event(session, path, offset, config)
    except ShimError as error:
        os.close(prog.fd)
        return error.errno
    reply = room.link(session, prog.fd, target)
    for fd in (prog.fd, target, *reply.fds):
        os.close(fd)
    return -min(reply.ret, 0)


def _place(here: Room) -> tuple[str, int]:
    """Of lib_work, in a library that no process has."""
    path = str(here.victim / "libvictim.so")
    module = Module(path)
    found = module.find("lib_work")
    assert found
    return path, module.vaddr_to_offset(found.vaddr)


def test_kinds_of_attachment_are_granted_one_by_one(here: Room) -> None:
    path, offset = _place(here)
    session = here.join(here.token(Claims(attach=Attach.URETPROBE)))
    assert _attached(session, path, offset) == errno.EPERM
    denied(here, "attach uprobe", "attach")
    assert path in here.log()[-1]["what"]
    assert _attached(session, path, offset, room.RET) == 0


def test_a_token_for_another_binary_attaches_to_nothing_else(here: Room) -> None:
    path, offset = _place(here)
    own, other = Module(path).build_id, Module("/bin/true").build_id
    assert own and other
    right = here.join(here.token(Claims(build_ids=(own,))))
    wrong = here.join(here.token(Claims(build_ids=(other,))))
    assert _attached(wrong, path, offset) == errno.EPERM
    denied(here, f"build_id {own.hex()}", "attach")
    assert _attached(right, path, offset) == 0
    lines = [line for line in here.log() if line["op"] == "attach"]
    assert lines[-1]["verdict"] == "admitted" and len(lines[-1]["tag"]) == 16


def test_a_file_put_in_the_place_of_the_one_that_was_judged_has_no_build_id(here: Room) -> None:
    path, _ = _place(here)
    found = os.stat(path)
    assert builds.of(path, (found.st_dev, found.st_ino))
    assert not builds.of(path, (found.st_dev, found.st_ino + 1))
    assert not builds.of(str(here.key), (os.stat(here.key).st_dev, os.stat(here.key).st_ino))
    assert not builds.of("/nowhere", (1, 1))


def test_many_uprobes_at_once_are_judged_too(here: Room) -> None:
    path, offset = _place(here)
    session = here.join(here.token(Claims(attach=Attach.UPROBE)))
    kind = bpf_attach_type.BPF_TRACE_UPROBE_MULTI
    prog = room.load(session, expected_attach_type=kind)
    for flags, code in ((1, errno.EPERM), (0, 0)):
        command = Command(bpf_cmd.BPF_LINK_CREATE, "link_create", attach_type=kind)
        command.fd("prog_fd", prog.fd)
        command.put("uprobe_multi.cnt", 1)
        command.put("uprobe_multi.flags", flags)
        command.give("uprobe_multi.path", os.fsencode(path) + b"\0")
        command.give("uprobe_multi.offsets", offset.to_bytes(8, "little"))
        reply = session.bpf(command)
        assert (reply.ret == -errno.EPERM) if code else (reply.fd >= 0)
        for fd in reply.fds:
            os.close(fd)
    os.close(prog.fd)


def test_what_the_gate_does_not_know_is_refused(here: Room) -> None:
    session = here.join(here.token())
    prog = room.load(session)
    assert room.link(session, prog.fd, prog.fd, bpf_attach_type.BPF_XDP).ret == -errno.EPERM
    command = Command(bpf_cmd.BPF_PROG_ATTACH, "attach",
                      attach_type=bpf_attach_type.BPF_CGROUP_INET_INGRESS)
    command.fd("attach_bpf_fd", prog.fd)
    assert session.bpf(command).ret == -errno.EPERM
    denied(here, "no token grants it", "prog_attach")
    os.close(prog.fd)


def test_objects_of_others_are_not_had_by_their_ids(here: Room) -> None:
    made = room.new_map(here.first, 1)
    session = here.join(here.token())
    number = session.bpf(found := Command(bpf_cmd.BPF_MAP_GET_NEXT_ID, "by_id"))
    assert number.ret == 0
    assert room.by_id(session, bpf_cmd.BPF_MAP_GET_FD_BY_ID, found.field("next_id")) == -1
    denied(here, "no token grants it", "map_get_fd_by_id")
    os.close(made.fd)


def test_nothing_is_answered_before_the_hello(here: Room) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.path.join(here.first.folder, "sock"))
        raw = Session.__new__(Session)
        raw.__dict__.update(here.first.__dict__, _sock=sock)
        for op in (raw.lib.SHIM_OP_BPF, raw.lib.SHIM_OP_PERF_OPEN, raw.lib.SHIM_OP_FD_INFO):
            assert raw.request(op, bytes(64)).ret == -errno.EPERM
        # but whose process it is may take the session out of it
        mine = os.getpid().to_bytes(4, "little")
        assert raw.request(raw.lib.SHIM_OP_LEAVE, mine).ret == 0
        assert (here.log()[-1]["op"], here.log()[-1]["verdict"]) == ("leave", "admitted")


def test_a_session_leaves_no_process_for_another_user(tmp_path: Path) -> None:
    keys.make(tmp_path / "key")
    gate = Gate(tmp_path / "key", tmp_path / "log")
    gate.leave(os.getpid(), os.geteuid(), 1)
    gate.leave(os.getpid(), 0, 1)
    with pytest.raises(ShimError) as refused:
        gate.leave(os.getpid(), os.geteuid() + 1, 1)
    assert refused.value.errno == errno.EPERM
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["admitted", "admitted", "refused"]
    assert lines[-1]["missing"] == f"uid {os.geteuid()}"


def test_a_token_that_is_revoked_meanwhile_gets_nothing_more(here: Room) -> None:
    token = here.token(Claims(uids=(os.geteuid(), 12345)))
    session = here.join(token)
    made = room.new_map(session, 1)
    assert made.fd >= 0
    keys.revoke(here.key, token.ids[-1])
    assert room.new_map(session, 1).ret == -errno.EPERM
    denied(here, "revoked", "request")
    with pytest.raises(ShimError):
        room.event(session, *_place(here))
    os.close(made.fd)


def test_a_token_that_expires_meanwhile_gets_nothing_more(tmp_path: Path) -> None:
    keys.make(tmp_path / "key")
    gate = Gate(tmp_path / "key", tmp_path / "log")
    granted = chain.check(keys.read(tmp_path / "key"), chain.mint(
        keys.read(tmp_path / "key"), Claims(expires=int(time.time()))), (), 0)
    with pytest.raises(ShimError, match="expired"):
        gate.enter(Permit(0, os.getpid(), granted))
    assert "expired" in (tmp_path / "log").read_text()
    assert Audit(tmp_path / "log")


def test_a_line_of_the_log_cannot_be_forged_by_a_name(here: Room) -> None:
    path, offset = _place(here)
    evil = here.victim / 'x"}\n{"verdict": "admitted", "op": "hello'
    evil.write_bytes(Path(path).read_bytes())
    lines = len(here.log())
    session = here.join(here.token(Claims(attach=Attach(0))))
    assert _attached(session, str(evil), offset) == errno.EPERM
    added = here.log()[lines:]
    assert [line["op"] for line in added] == ["hello", "load", "attach"]
    assert added[-1]["verdict"] == "refused" and evil.name in added[-1]["what"]


def test_what_cannot_be_written_down_is_not_granted(here: Room) -> None:
    session = here.join(here.token())
    log = here.key.with_name("key.audit")
    log.chmod(0o644)
    assert room.new_map(session, 1).ret == -errno.EPERM
    log.rename(log.with_name("kept"))
    log.mkdir()
    assert room.new_map(session, 1).ret == -errno.EIO
    log.rmdir()
    again = room.new_map(session, 1)  # a log that was renamed away begins anew
    assert again.fd >= 0 and [line["op"] for line in here.log()] == ["map"]
    os.close(again.fd)


TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD


def _token(session: Session, path: str) -> int:
    folder = os.open(path, os.O_DIRECTORY)
    command = Command(bpf_cmd.BPF_TOKEN_CREATE, "token_create")
    command.fd("bpffs_fd", folder)
    reply = session.bpf(command)
    os.close(folder)
    return reply.fd if reply.ret >= 0 else reply.ret


def test_the_sessions_bpffs_delegates_what_the_token_grants(here: Room) -> None:
    session = here.join(here.token(Claims(map_bytes=MAP_SIZE)))
    fd = _token(session, str(Path(here.first.folder, "bpffs")))
    assert fd >= 0 and _token(session, "/proc") == -errno.EINVAL
    flags = Command(bpf_cmd.BPF_MAP_CREATE, "map_create", map_type=2, key_size=4, value_size=8,
                    max_entries=1, map_flags=TOKEN_FD)
    flags.fd("map_token_fd", fd)
    made = session.bpf(flags)
    assert made.fd >= 0
    assert session.bpf(flags).ret == -errno.EPERM  # map_bytes
    other = Command(bpf_cmd.BPF_PROG_LOAD, "prog_load",
                    prog_type=bpf_prog_type.BPF_PROG_TYPE_KPROBE, insn_cnt=2,
                    prog_flags=TOKEN_FD)
    other.fd("prog_token_fd", made.fd)
    other.give("insns", room.RETURN_0)
    other.give("license", b"GPL\0")
    assert session.bpf(other).ret == -errno.EINVAL  # a map is no token
    other.fd("prog_token_fd", fd)
    loaded = session.bpf(other)
    assert loaded.fd >= 0
    for one in (fd, made.fd, loaded.fd):
        os.close(one)


@pytest.mark.parametrize("wrong", [
    "key for others", "key gone", "list garbled", "log for others", "log a folder", "relative",
])
def test_nobody_is_served_where_the_key_or_the_log_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str
) -> None:
    key = tmp_path / "key"
    keys.make(key)
    monkeypatch.setenv("LIBBPF_SHIM_TOKEN_KEY", str(key))
    monkeypatch.delenv("LIBBPF_SHIM_AUDIT", raising=False)
    log = tmp_path / "key.audit"
    if wrong == "key for others":
        key.chmod(0o644)
    elif wrong == "key gone":
        key.unlink()
    elif wrong == "list garbled":
        keys.revoke(key, bytes(16))
        keys.list_of(key).write_text("x\n")
    elif wrong == "log for others":
        log.touch()
        log.chmod(0o622)
    elif wrong == "log a folder":
        log.mkdir()
    else:
        monkeypatch.setenv("LIBBPF_SHIM_TOKEN_KEY", "key")
    with pytest.raises(ShimError) as refused:
        Gate.of_environment()
    assert refused.value.errno == errno.EKEYREJECTED


def test_without_a_key_there_is_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBBPF_SHIM_TOKEN_KEY", raising=False)
    assert Gate.of_environment() is None
