"""Returns of functions that look at their own return address: they answer as without a probe, and
each return of a call is counted once, vfork's in both processes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import HERE, Host, Victim
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.returns import plan_returns

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6").resolve()
# what the victim does: its answer for n rounds, and how often each function of libc returns from
# a call of its own
DEEDS: dict[str, tuple[Callable[[int], int], dict[str, int]]] = {
    "setjmps": (lambda n: 3 * n, {"_setjmp": 1, "__sigsetjmp": 2, "setjmp": 0}),
    "mixed": (lambda n: n, {"_setjmp": 1, "setjmp": 1, "__sigsetjmp": 2}),
    "vforks": (lambda n: 5 * n, {"vfork": 1}),  # the child is another process
    "next": (lambda n: 4 * n, {"dlvsym": 1}),
    "opened": (lambda n: 2 * n, {"dlopen": 2, "dlsym": 1}),
    "objects": (lambda n: n, {"dl_iterate_phdr": 1}),
    "contexts": (lambda n: 3 * n, {"getcontext": 1}),
}


@pytest.fixture
def returning(host: Host, runtime_dir: Path) -> Iterator[Victim]:
    made = build.make("returning", [HERE / "returning.c"], build.VICTIM_FLAGS)
    folder = build.private_copy({"returning": made})
    victim = Victim(folder / "returning", runtime_dir, host)
    try:
        yield victim
        victim.end()
    finally:
        victim.kill()
        shutil.rmtree(folder)


def file(victim: Victim) -> Path:
    """Its own copy of the program."""
    return Path(os.readlink(f"/proc/{victim.pid}/exe"))


@pytest.mark.parametrize("deed", DEEDS)
def test_it_answers_as_ever_and_is_counted(host: Host, returning: Victim, deed: str) -> None:
    answer, returns = DEEDS[deed]
    probes = {name: host.attach(LIBC, name, ret=True, pid=returning.pid) for name in returns}
    for rounds in (1, 50):
        before = {name: counter.hits for name, (_, counter) in probes.items()}
        assert returning.say(f"{deed} {rounds}") == f"{deed} {answer(rounds)}"
        assert {name: counter.hits - before[name] for name, (_, counter) in probes.items()} == {
            name: times * rounds for name, times in returns.items()}
    for att, _ in probes.values():
        host.detach(att)
    assert returning.say(f"{deed} 3") == f"{deed} {answer(3)}"
    assert host.notices == []


def test_fibres_that_change_threads_return_from_swapcontext(
    host: Host, returning: Victim
) -> None:
    _, entered = host.attach(LIBC, "swapcontext", pid=returning.pid)
    _, left = host.attach(LIBC, "swapcontext", ret=True, pid=returning.pid)
    assert returning.say("swaps 20") == "swaps 60"
    # 40 turns call it twice each; the last call of both fibres does not return
    assert (entered.hits, left.hits) == (80, 78)


def test_parent_and_child_return_from_vfork(host: Host, returning: Victim) -> None:
    _, entered = host.attach(file(returning), "own_vfork")
    _, left = host.attach(file(returning), "own_vfork", ret=True)
    assert returning.say("own 50") == "own 50"
    assert (entered.hits, left.hits) == (50, 100)


def test_more_threads_than_blocks_of_slots(host: Host, returning: Victim) -> None:
    _, left = host.attach(file(returning), "crowded", ret=True)
    for threads in (1200, 50):  # RET_BLOCKS is 256, half of them everybody's
        before = left.hits
        assert returning.say(f"crowd {threads}") == f"crowd {threads}"
        assert left.hits - before == threads


def test_functions_that_only_share_the_way_out_are_not_counted(
    host: Host, returning: Victim
) -> None:
    _, counter = host.attach(LIBC, "setjmp", ret=True, pid=returning.pid)
    returning.say("setjmps 10")
    assert counter.hits == 0
    returning.say("mixed 10")
    assert counter.hits == 10


def test_a_function_that_takes_its_arguments_off_the_stack_returns(
    host: Host, returning: Victim
) -> None:
    _, left = host.attach(file(returning), "popping", ret=True)
    assert returning.say("pops 50") == "pops 2450"
    assert (left.hits, host.notices) == (50, [])


def test_a_return_of_what_v8_has_made_is_refused(host: Host, returning: Victim) -> None:
    """The kernel's probe ends node."""
    att, _ = host.attachment(file(returning), "Builtins_Next", ret=True)
    with pytest.raises(ShimError, match="looks return addresses up"):
        host.delivery.attach(att)


def test_a_part_of_a_function_that_stands_apart_does_not_return(
    host: Host, returning: Victim
) -> None:
    """Patterns of names find it too. The kernel replaces a word of the function's frame."""
    program = file(returning)
    entered, left = (host.attach(program, "apart.cold", ret=ret)[1] for ret in (False, True))
    _, whole = host.attach(program, "apart", ret=True)
    assert returning.say("parts 50") == "parts 2500"
    assert (entered.hits, left.hits, whole.hits) == (25, 0, 50)
    assert host.notices == []


def test_what_is_not_called_has_no_return(host: Host, program: Path) -> None:
    att, _ = host.attachment(program, "_start", ret=True)
    with pytest.raises(ShimError) as refused:
        host.delivery.attach(att)
    assert refused.value.errno == errno.EOPNOTSUPP and "not called" in refused.value.message


def test_what_the_unwind_table_says_is_not_called_has_no_return() -> None:
    """Of a stripped file: a part that stands apart, and where symbols are bound, with two words on
    the stack. The kernel replaces a word of a frame, or one of these."""
    flags = [*build.VICTIM_FLAGS, "-Wl,-z,lazy"]
    named = Module(str(build.make("named", [HERE / "returning.c"], flags)))
    stripped = Module(str(build.make("stripped", [HERE / "returning.c"], [*flags, "-s"])))
    table, cold, whole = named.section(".plt"), named.find("apart.cold"), named.find("apart")
    assert table and cold and whole and not stripped.find("apart.cold")
    for vaddr in (table.address, cold.vaddr):
        assert vaddr in stripped.starts
        with pytest.raises(ShimError) as refused:
            plan_returns(stripped, vaddr)
        assert refused.value.errno == errno.EOPNOTSUPP and "not called" in refused.value.message
    assert plan_returns(stripped, whole.vaddr) == plan_returns(named, whole.vaddr)
    assert plan_returns(named, cold.vaddr).kept


def test_the_inside_of_a_function_has_no_return(program: Path) -> None:
    module = Module(str(program))
    main = module.find("main")
    assert main
    with pytest.raises(ShimError) as refused:
        plan_returns(module, main.vaddr + 9)
    assert refused.value.errno == errno.EINVAL


def test_of_libcs_functions_few_look_at_their_return_address() -> None:
    """All those that are known to, and no others."""
    module = Module(str(LIBC))
    names = ["setjmp", "_setjmp", "__sigsetjmp", "getcontext", "swapcontext", "vfork", "dlopen",
             "dlsym", "dlvsym", "dlmopen", "dl_iterate_phdr"]
    for name in names:
        symbol = module.find(name)
        assert symbol and plan_returns(module, symbol.vaddr).kept, name
    usual = ["malloc", "free", "read", "printf", "qsort", "getenv", "longjmp", "siglongjmp",
             "fork", "pthread_create", "fopen", "regexec", "clone", "exit", "backtrace", "recv"]
    for name in usual:
        symbol = module.find(name)
        assert symbol and not plan_returns(module, symbol.vaddr).kept, name


def test_all_ways_out_are_found_or_the_return_is_refused() -> None:
    """Where the return address stays: what is not found is not counted."""
    flags = [*build.VICTIM_FLAGS, "-shared", "-nostdlib"]
    module = Module(str(build.make("leaving", [HERE / "leaving.S"], flags)))
    for name, leaves in {"keep": 2, "lose": None, "some": 101, "many": None}.items():
        symbol = module.find(name)
        assert symbol
        if leaves:
            assert len(plan_returns(module, symbol.vaddr, kept=True).leaves) == leaves, name
            continue
        with pytest.raises(ShimError) as refused:
            plan_returns(module, symbol.vaddr, kept=True)
        assert refused.value.errno == errno.EOPNOTSUPP and "cannot be followed" in str(refused)
        assert not plan_returns(module, symbol.vaddr).kept
