"""The other ways into a process, with windows that share, touch and depend on each other: before
main, where ptrace is refused, into libraries that come and go, and where other bytes stand."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import Host, Victim, serve, victim_program
from compat_tests.guard import launch
from compat_tests.rewrite.everywhere import (
    Everywhere,
    corpus,
    instructions,
    repeats,
    shuffled,
    truth,
)
from compat_tests.victims import build
from libbpf_shim.elf.module import ET_EXEC, Module
from libbpf_shim.elf.process import loaded_modules, read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.site import plan_site

ROUNDS = 3
PLUG = r'''
long plug_work(long x);
__asm__(".text\n.globl plug_work\n.type plug_work, @function\nplug_work:\n"
	".cfi_startproc\n\tjmp 1f\n.cfi_endproc\n.size plug_work, . - plug_work\n"
	".type plug_next, @function\nplug_next:\n.cfi_startproc\n1:\tlea 100(%rdi), %rax\n"
	"\tret\n.cfi_endproc\n.size plug_next, . - plug_next\n.p2align 4\n");
'''


@pytest.fixture
def program() -> Iterator[Path]:
    folder = build.private_copy({
        "corpus": corpus("gcc-Os-packed"),
        "obeys": victim_program(),
        "libplug.so": _prelinked(),
    })  # fmt: skip
    yield folder / "corpus"
    shutil.rmtree(folder)


def _prelinked() -> Path:
    """A library that is linked to an address of its own, as prelink leaves them; its function is
    shorter than a jump, and another begins behind it without a gap."""
    source = build.CACHE / "prelinked.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(PLUG)
    return build.make("libplug.so", [source], ["-shared", "-fPIC", "-nostdlib",
                                               "-Wl,-Ttext-segment=0x3a00000"])  # fmt: skip


def _exact(probes: Everywhere, rounds: int = 1) -> list[str]:
    want = truth(probes.path, ROUNDS).counts
    return [f"{v:#x}: {probes.count(v)} of {want.get(v, 0) * rounds}" for v in probes.atts
            if probes.count(v) != want.get(v, 0) * rounds and not repeats(probes.module, v)]


def test_before_main_every_probe_is_there(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    probes = Everywhere(host, program)
    chosen = shuffled(instructions(program), 3)[:150]
    probes.attach_together(chosen, 0)
    victim = Victim(program, runtime_dir, host)
    try:
        assert victim.say(f"sum {ROUNDS}") == truth(program, ROUNDS).sum
        lost = len(host.notices)
        assert lost <= len(chosen) // 16, host.notices
        assert len(_exact(probes)) <= lost  # those are not counted, the others exactly
        probes.detach_all()
        fresh = Victim(program, program.parent)  # where no session is: it would be waited for
        try:
            assert victim.say("bytes") == fresh.say("bytes")
            fresh.end()
        finally:
            fresh.kill()
        victim.end()
    finally:
        victim.kill()


def test_without_ptrace_windows_of_one_instruction_are_shared_and_left(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    obeys = program.parent / "obeys"
    probes = Everywhere(host, obeys)
    one, several = probes.module.find("one"), probes.module.find("several")
    assert one and several
    assert probes.attach(one.vaddr)
    victim = Victim(obeys, runtime_dir, host, no_ptrace=True)
    try:
        fresh = Victim(obeys, program.parent)  # where no session is: it would be waited for
        before = fresh.say("bytes one")
        fresh.end()
        assert victim.say("threads 2") == "threads 2"
        # `several` is three instructions: refused, and nothing is left of it
        assert not probes.attach(several.vaddr, victim.pid)
        assert "ptrace is refused" in probes.refused[several.vaddr]
        for _ in range(3):
            probes.detach(one.vaddr)
            assert victim.say("bytes one") == before
            assert probes.attach(one.vaddr, victim.pid)
        assert victim.say("stop").startswith("stopped ")
        probes.detach(one.vaddr)
        assert victim.say("bytes one") == before
        victim.end()
    finally:
        victim.kill()


def test_a_prelinked_library_is_probed_each_time_it_is_opened(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    library = program.parent / "libplug.so"
    module = Module(str(library))
    assert module.load_base == 0x3A00000
    victim = Victim(program.parent / "obeys", runtime_dir, host)
    try:
        probes = Everywhere(host, library)
        vaddrs = [module.find(n).vaddr for n in ("plug_work", "plug_next")]  # type: ignore[union-attr]
        vaddrs.append(vaddrs[1] + 4)  # its ret
        for vaddr in vaddrs:
            assert probes.attach(vaddr, victim.pid)
        for times in (1, 2, 3):
            victim.tell(f"open {library}")
            serve(host, reason=lib.SHIM_SYNC_DLOPEN)
            assert victim.answer() == "opened"
            victim.run(20)
            assert [probes.count(v) for v in vaddrs] == [20 * times] * 3
            victim.tell("close")
            serve(host, reason=lib.SHIM_SYNC_DLOPEN)
            assert victim.answer() == "closed"
        assert host.notices == []
        victim.end()
    finally:
        victim.kill()


def test_bytes_that_are_not_the_files_are_left_alone(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    obeys = program.parent / "obeys"
    victim = Victim(obeys, runtime_dir, host)
    try:
        probes = Everywhere(host, obeys)
        one = probes.module.find("one")
        assert one
        ino = probes.module.ino
        loaded = next(m for m in loaded_modules(read_maps(victim.pid)) if m.ino == ino)
        at = one.vaddr + loaded.bias(probes.module)
        with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(at)
            memory.write(b"\x0f\x1f\x44\x00\x00")  # somebody else was here
        assert not probes.attach(one.vaddr, victim.pid)
        assert "other bytes" in probes.refused[one.vaddr], probes.refused
        assert victim.say("bytes one").startswith("0f1f440000")
        victim.kill()
    finally:
        victim.kill()


@pytest.mark.parametrize("name", ["gcc-fixed-address", "gcc-cet-patchable"])
def test_offsets_that_begin_no_instruction_are_invalid(name: str) -> None:
    module = Module(str(corpus(name)))
    assert (module.type == ET_EXEC) is (name == "gcc-fixed-address")
    starts = set(instructions(corpus(name)))
    middle = [v + 1 for v in sorted(starts) if v + 1 not in starts and v + 2 in starts]
    assert len(middle) > 20
    for vaddr in middle:
        with pytest.raises(ShimError, match="inside an instruction") as caught:
            plan_site(module, vaddr)
        assert caught.value.errno == errno.EINVAL


def test_prog_list_shows_the_tactic_of_each_site(program: Path) -> None:
    """A stock tool attaches; bpf-shim says how."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    script = (
        "import subprocess, sys\n"
        "tool = subprocess.Popen(['bpftrace', '-e', sys.argv[1], '-c', sys.argv[2]],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "assert 'ttach' in tool.stdout.readline(); tool.stdout.readline()\n"
        f"print(subprocess.run(['{python}', '-I', '-c', sys.argv[3], 'prog', 'list', '-j'],\n"
        "    capture_output=True, text=True).stdout, flush=True)\n"
        "tool.stdin.close(); tool.wait()\n")
    shim = ("import sys; sys.path.insert(0, '" + str(launch.product()) + "'); "
            "from libbpf_shim.cli import main; sys.exit(main())")
    what = "".join(f"uprobe:{program}:{f} {{ @{f} = count(); }}" for f in ("c_run", "c_switch"))
    done = subprocess.run(
        launch.shim_run([python, "-I", "-c", script, what, str(program), shim]),
        capture_output=True, text=True, timeout=60)
    line = next((x for x in done.stdout.splitlines() if x.startswith("[")), "")
    assert line, done.stdout + done.stderr
    sites = sorted(s for prog in json.loads(line) for s in prog["sites"])
    module = Module(str(program))
    want = []
    for symbol in ("c_run", "c_switch"):
        found = module.find(symbol)
        assert found
        plan = plan_site(module, found.vaddr)
        want.append(f"{program}+{module.vaddr_to_offset(found.vaddr):#x} {plan.tactic}")
    assert sites == sorted(want)


def test_probes_that_come_again_use_the_trampolines_that_are_there(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    victim = Victim(program, runtime_dir, host)
    try:
        probes = Everywhere(host, program)
        chosen = shuffled(instructions(program), 5)[:24]
        used = []
        for order in (1, 2, 1, 2, 1):  # who is a guest of whom depends on it
            for vaddr in shuffled(chosen, order):
                probes.attach(vaddr, victim.pid)
            for vaddr in shuffled(list(probes.atts), order + 10):
                probes.detach(vaddr)
            near = host.delivery.talks.processes[victim.pid].near
            used.append(sum(region.used for region in near.regions))
        assert used[1:] == [used[1]] * 4
        victim.end()
    finally:
        victim.kill()
