"""Templates make what `render` makes; kept plans are the plans, and are believed only as they were
written, by this code, for this file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from libbpf_shim.elf.module import ET_DYN, STT_FUNC, Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite import kept
from libbpf_shim.rewrite.kept import Kept
from libbpf_shim.rewrite.plan import SitePlan
from libbpf_shim.rewrite.render import render
from libbpf_shim.rewrite.site import plan_site
from libbpf_shim.rewrite.template import template

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
SITE, ENTER, LEAN = 0x5500_0000_0120, 0x7FFF_1234_5678, 0x6600_0000_0010


@pytest.fixture(scope="module")
def module() -> Module:
    return Module(str(LIBC))


@pytest.fixture(scope="module")
def plans(module: Module) -> list[SitePlan]:
    """Of functions, and of instructions inside of them, on every rung."""
    rng, found = random.Random(6), []
    functions = [s for s in module.symbols if s.type == STT_FUNC and s.size > 32]
    for symbol in rng.sample(functions, 150):
        try:
            first = plan_site(module, symbol.vaddr)
        except ShimError:
            continue
        found.append(first)
        with_more = first.displaced[-1]
        try:
            found.append(plan_site(module, with_more.vaddr + len(with_more.code)))
        except ShimError:
            continue
    return found


def test_a_template_makes_what_render_makes(module: Module, plans: list[SitePlan]) -> None:
    assert module.type == ET_DYN
    made = 0
    for plan in (one for first in plans for one in (first, *first.others)):
        found = template(plan)
        if found is None:
            assert plan.hole or plan.fixed or len(plan.orig) < 5 or plan.tactic == "int3"
            continue
        for bias, far in ((0x7F12_3456_7000, -0x100_0000), (0x1000, 0x700_0000)):
            tramp = bias + plan.window + far & ~15
            want = render(plan, bias, tramp, SITE, ENTER, lean=LEAN)
            code = found.fill(bias, tramp, SITE, LEAN if found.shape.lean else ENTER)
            assert code[: len(want.tramp)] == want.tramp
            assert len(code) == found.shape.size and not len(code) % 16
            assert found.jump(bias, tramp) == want.window
            window = plan.window + bias
            assert tuple((window + at, tramp + by) for at, by in found.shape.fixups) == want.fixups
        made += 1
    assert made > 100


def test_what_is_too_far_away_is_refused(plans: list[SitePlan]) -> None:
    found = next(made for plan in plans if (made := template(plan)))
    with pytest.raises(ShimError, match="out of reach"):
        found.jump(0, 1 << 40)
    with pytest.raises(ShimError, match="out of reach"):
        found.fill(0, 1 << 40, SITE, ENTER)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plans"
    made.mkdir(mode=0o700)
    return made


def test_kept_plans_are_the_plans(module: Module, plans: list[SitePlan], folder: Path) -> None:
    store = Kept(folder)
    for plan in plans:
        store.add(module, plan)
    store.write(at_once=True)
    again, other = Kept(folder), Module(str(LIBC))
    for plan in plans:
        assert again.plan(other, plan.vaddr) == plan
        assert again.template(other, plan.vaddr) == (template(plan),)
    assert again.plan(other, 1) is None and again.template(other, 1) is None


def test_what_two_backends_have_made_is_kept_together(
    module: Module, plans: list[SitePlan], folder: Path
) -> None:
    stores = [Kept(folder), Kept(folder)]
    for store, plan in zip(stores, plans, strict=False):
        assert store.plan(module, plan.vaddr) is None
        store.add(module, plan)
    for store in stores:
        store.write(at_once=True)
    assert all(Kept(folder).plan(module, plan.vaddr) == plan for plan in plans[:2])


def test_a_file_that_was_changed_has_other_plans(
    plans: list[SitePlan], folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "libc.so"
    copy.write_bytes(LIBC.read_bytes())
    store = Kept(folder)
    store.add(Module(str(copy)), plans[0])
    assert store.plan(Module(str(copy)), plans[0].vaddr) == plans[0]
    os.utime(copy, ns=(1, 1))
    assert store.plan(Module(str(copy)), plans[0].vaddr) is None


def test_other_code_finds_nothing(
    plans: list[SitePlan], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Kept(folder)
    store.add(Module(str(LIBC)), plans[0])
    monkeypatch.setattr(kept, "_here", lambda: b"another version")
    assert store.plan(Module(str(LIBC)), plans[0].vaddr) is None


@pytest.mark.parametrize("how", ["byte", "cut", "mode", "link"])
def test_what_somebody_has_touched_is_not_believed(
    module: Module, plans: list[SitePlan], folder: Path, how: str
) -> None:
    store = Kept(folder)
    store.add(module, plans[0])
    store.write(at_once=True)
    assert Kept(folder).plan(module, plans[0].vaddr) == plans[0]
    (file,) = (f for f in folder.iterdir() if f.name != "secret")
    if how == "byte":
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    elif how == "cut":
        os.truncate(file, 40)
    elif how == "mode":
        file.chmod(0o620)
    else:
        file.rename(folder / "elsewhere")
        file.symlink_to(folder / "elsewhere")
    assert Kept(folder).plan(module, plans[0].vaddr) is None
