"""A library that a process maps once more, or anew at the same place, where nobody tells of it
(mapped.c): what was there stays, what has come is found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import Counter, Host, Victim, eventually, plugin, serve, victims
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent


def again(*flags: str) -> Path:
    name = "-".join(["again", *(f.strip("-") for f in flags)])
    return build.make(name, [HERE / "mapped.c"], [*build.WARN, "-O1", *flags], ["-ldl"])


def _hits(victim: Victim, counter: Counter) -> int:
    """Of one more call of whatever is there."""
    before = counter.hits
    victim.say("call")
    return counter.hits - before


@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_the_program_maps_itself_is_attached(
    host: Host, runtime_dir: Path, named: bool
) -> None:
    folder = build.private_copy({"again": again(), "libplug.so": plugin()})
    library = folder / "libplug.so"

    def counted(hits: int) -> bool:
        host.delivery.tidy()
        return _hits(victim, counter) == hits

    with victims(folder / "again", runtime_dir, [str(library)]) as start:
        victim = start(host)
        _, counter = host.attach(library, "plug_work", pid=victim.pid if named else 0)
        victim.tell("open")
        serve(host, reason=lib.SHIM_SYNC_DLOPEN)
        assert victim.answer() == "open 0"
        for hits, command in ((1, "call"), (2, "map"), (2, "over")):
            victim.say(command)
            eventually(partial(counted, hits))
            assert [_hits(victim, counter) for _ in range(5)] == [hits] * 5
    assert not [n for n in host.notices if f"process {victim.pid}:" in n]
