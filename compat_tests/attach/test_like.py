"""One more link of a program that is in a process (attach/like.py, csrc/keeper/like.c): the keeper
puts it there without a conversation, and it counts like any other; where it may not, there is a
conversation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from compat_tests.attach.host import HERE, Counter, Host, Victim, victims
from compat_tests.attach.test_pages import FUNCTIONS, SUM
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.errors import ShimError

Start = Callable[..., Victim]
Asked = list[str]


@pytest.fixture
def pages() -> Iterator[Path]:
    made = build.make("pages", [HERE / "pages.c"], build.VICTIM_FLAGS)
    folder = build.private_copy({"pages": made})
    yield folder / "pages"
    shutil.rmtree(folder)


@pytest.fixture
def begin(pages: Path, runtime_dir: Path) -> Iterator[Start]:
    with victims(pages, runtime_dir) as make:
        yield make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the keeper is asked for, as it is answered."""
    said: Asked = []

    def noted(name: str) -> None:
        original = getattr(Keeper, name)

        def ask(keeper: Keeper, *what: object, **more: object) -> object:
            try:
                answer = original(keeper, *what, **more)
            except ShimError:
                said.append(f"no {name}")
                raise
            said.append(name)
            return answer

        monkeypatch.setattr(Keeper, name, ask)

    noted("talk")
    noted("like")
    return said


def another(
    host: Host, program: Path, symbol: str, first: Attachment, *, ret: bool = False, pid: int = 0
) -> Attachment:
    """A link of its own of the same program."""
    att, _ = host.attachment(program, symbol, ret=ret, pid=pid)
    return replace(att, prog=first.prog, cookie=att.link_id)


def put(host: Host, att: Attachment) -> Counter:
    host.delivery.attach(att)
    host.control.enable(att.link, True)
    counter = att.prog.maps[0]
    assert isinstance(counter, Counter)
    return counter


@pytest.mark.parametrize("ret", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_first_is_talked_about_and_the_others_are_like_it(
    host: Host, begin: Start, pages: Path, asked: Asked, ret: bool, named: bool
) -> None:
    victim = begin(host)
    before, pid = victim.say("bytes"), victim.pid if named else 0
    first, _ = host.attachment(pages, "p_0", ret=ret, pid=pid)
    atts = [first, *(another(host, pages, f"p_{i}", first, ret=ret, pid=pid)
                     for i in range(1, FUNCTIONS))]
    for number, att in enumerate(atts, 1):
        counter = put(host, att)
        hits = counter.hits
        assert victim.say("sum") == SUM
        assert counter.hits - hits == number
        if number == 2:
            assert counter.cookie == att.cookie
    assert asked == ["talk", *["like"] * (FUNCTIONS - 1)]
    for att in atts:
        host.detach(att)
    assert victim.say("bytes") == before
    assert host.notices == []


def test_one_that_is_silenced_leaves_the_others(
    host: Host, begin: Start, pages: Path
) -> None:
    """Each has a state of its own."""
    victim = begin(host)
    first, _ = host.attachment(pages, "p_0")
    second = another(host, pages, "p_1", first)
    counter = put(host, first)
    put(host, second)
    host.control.enable(first.link, False)
    victim.say("sum")
    assert (counter.hits, counter.cookie) == (1, second.cookie)


def test_once_the_one_that_it_would_be_like_has_gone_it_is_talked_about(
    host: Host, begin: Start, pages: Path, asked: Asked
) -> None:
    victim = begin(host)
    first, _ = host.attachment(pages, "p_0")
    put(host, first)
    host.detach(first)
    counter = put(host, another(host, pages, "p_1", first))
    put(host, another(host, pages, "p_2", first))
    victim.say("sum")
    assert counter.hits == 2
    assert asked[:1] == ["talk"] and asked[-3:] == ["no like", "talk", "like"]


def test_where_another_session_has_come_between_it_is_talked_about(
    host: Host, runtime_dir: Path, begin: Start, pages: Path, asked: Asked
) -> None:
    victim, other = begin(host), Host(runtime_dir, 2)
    try:
        first, _ = host.attachment(pages, "p_0")
        counter = put(host, first)
        _, theirs = other.attach(pages, "p_1")  # the next record, and the place that is asked for
        put(host, another(host, pages, "p_1", first))
        put(host, another(host, pages, "p_2", first))
        assert asked == ["talk", "talk", "no like", "talk", "no like", "talk"]
        victim.say("sum")
        assert (counter.hits, theirs.hits) == (3, 1)
    finally:
        other.end()
        other.close()


def test_threads_that_run_are_led_around_its_window(
    host: Host, start: Start, program: Path, asked: Asked
) -> None:
    """Instructions of the window are executed elsewhere from then on (several)."""
    victim = start(host)
    before = victim.say("bytes several")
    victim.say("threads 4")
    first, _ = host.attachment(program, "one")
    put(host, first)
    for _ in range(20):
        att = another(host, program, "several", first)
        put(host, att)
        host.detach(att)
    victim.say("stop")
    assert victim.say("bytes several") == before
    assert "like" in asked and host.notices == []


def test_what_was_loaded_meanwhile_is_talked_about(
    host: Host, start: Start, program: Path, asked: Asked
) -> None:
    victim = start(host)
    first, _ = host.attachment(program, "one")
    counter = put(host, first)
    library = program.parent / "libplug.so"
    victim.tell(f"open {library}")
    assert victim.answer() == "opened"
    put(host, another(host, program, "several", first))
    victim.run(10)
    assert (counter.hits, asked) == (20, ["talk", "talk"])


def test_a_fork_child_has_it(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    first, _ = host.attachment(program, "one")
    counter = put(host, first)
    put(host, another(host, program, "several", first))
    assert victim.say("fork").startswith("child ")
    victim.run(10, "@ ")
    assert counter.hits == 20


def test_a_keeper_that_dies_at_any_step(
    host: Host, begin: Start, pages: Path, asked: Asked
) -> None:
    """It is there once all the same, by a conversation then."""
    victim = begin(host)
    before = victim.say("bytes")
    atts = [host.attachment(pages, "p_0")[0]]
    counter = put(host, atts[0])
    deaths = step = 0
    while deaths == step:
        step += 1
        del asked[:]
        died = one_that_dies_at(step, host, lambda: put_next(host, pages, atts))
        deaths += died
        assert asked == (["no like", "talk"] if died else ["like"])
        hits = counter.hits
        assert victim.say("sum") == SUM, f"the keeper died at step {step}"
        assert counter.hits - hits == len(atts), f"the keeper died at step {step}"
    for att in atts:
        host.detach(att)
    assert victim.say("bytes") == before
    assert deaths > 8, "the steps of it"


def test_a_keeper_that_dies_in_a_conversation(host: Host, begin: Start, pages: Path) -> None:
    """The site's flag may be set, and the window not be written."""
    victim = begin(host)
    atts: list[Attachment] = []
    deaths = step = 0
    while deaths == step:
        step += 1
        att, counter = host.attachment(pages, f"p_{step}")
        deaths += one_that_dies_at(step, host, partial(put, host, att))
        victim.say("sum")
        assert counter.hits == 1, f"the keeper died at step {step}"
        atts.append(att)
    assert deaths > 15, "the steps of it"


def put_next(host: Host, pages: Path, atts: list[Attachment]) -> None:
    atts.append(another(host, pages, f"p_{len(atts)}", atts[0]))
    put(host, atts[-1])


def one_that_dies_at(step: int, host: Host, work: Callable[[], object]) -> bool:
    """With a keeper that dies at its Nth step, as it did; the one that takes its place lives."""
    environ = {"LIBBPF_SHIM_KEEPER_DIE_AT": str(step)}
    broken = Keeper(environ=environ)
    environ.clear()
    usual, host._keeper = host.keeper(), broken
    born = broken.pid
    try:
        work()
        return broken.pid != born
    finally:
        host._keeper = usual
        broken.close()
