"""Which files a session attaches to, where they are mapped, and the patch plans made of them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.target import Target
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.kept import Kept
from libbpf_shim.rewrite.plan import SitePlan
from libbpf_shim.rewrite.template import Template, template

if TYPE_CHECKING:  # what makes plans is loaded where one is to be made
    from libbpf_shim.rewrite.kept import Calls
    from libbpf_shim.rewrite.returns import Returns


class Plans:
    """Of one session. cache: where what is known of a file is kept between sessions."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._modules: dict[str, Module] = {}
        self._kept = Kept(cache / "plans")
        self._plans: dict[tuple[Module, int], SitePlan] = {}
        self._templates: dict[Module, dict[int, Template | None]] = {}  # by offset
        self._returns: dict[tuple[Module, int, bool], Returns | ShimError] = {}
        self._files: dict[Attachment, Module] = {}

    def module(self, path: str) -> Module:
        """The file that lies there now."""
        known = self._modules.get(path)
        with contextlib.suppress(OSError):
            now = os.stat(path)
            if known and (now.st_dev, now.st_ino, now.st_mtime_ns) == (
                known.dev, known.ino, known.mtime_ns,
            ):  # fmt: skip
                return known
        self._modules[path] = Module(path)
        return self._modules[path]

    def hold(self, atts: Sequence[Attachment]) -> None:
        """Files of attachments, from now on: what is put in their place later is another one.
        ShimError: why no window fits; then none is held."""
        module: Module | None = None
        known: dict[int, Template | None] = {}
        try:
            for att in atts:
                place = att.place
                if not isinstance(place, Code):
                    continue
                if module is None or module.path != place.path:
                    module = self.module(place.path)
                    known = self.templates(module)
                self._files[att] = module
                if place.offset not in known:
                    self._make(module, place.offset, known)
                if known[place.offset] is None:
                    self.plan(att)
                if place.ret or place.both:
                    self.returns(att)
        except BaseException:
            for att in atts:
                self.drop(att)
            raise

    def drop(self, att: Attachment) -> None:
        """Not attached any more."""
        self._files.pop(att, None)

    def drop_all(self) -> None:
        self._files.clear()

    def file(self, att: Attachment) -> Module:
        return self._files[att]

    def plan(self, att: Attachment) -> SitePlan:
        """How its instruction is diverted."""
        assert isinstance(att.place, Code)
        module = self._files[att]
        return self.at(module, module.offset_to_vaddr(att.place.offset))

    def at(self, module: Module, vaddr: int, size: int = 0) -> SitePlan:
        """The same, for a virtual address of a module. size: the window without a probe that has
        so many bytes there."""
        if size:
            from libbpf_shim.rewrite.site import plan_window

            return plan_window(module, vaddr, size)
        key = (module, vaddr)
        if key not in self._plans:
            known = self._kept.plan(module, vaddr)
            if known is None:
                from libbpf_shim.rewrite.site import plan_site

                known = plan_site(module, vaddr, cache=self.cache)
                self._kept.add(module, known)
            self._plans[key] = known
        return self._plans[key]

    def templates(self, module: Module) -> dict[int, Template | None]:
        """Of its plans, by offset, as far as they are held; None: that one has none."""
        known = self._templates.get(module)
        if known is None:
            known = self._templates[module] = {}
        return known

    def _make(self, module: Module, offset: int, known: dict[int, Template | None]) -> None:
        """One more of them."""
        vaddr = module.offset_to_vaddr(offset)
        kept = self._kept.template(module, vaddr)
        if kept is None:
            plan = self.at(module, vaddr)
            kept = self._kept.template(module, vaddr) or (template(plan),)
        known[offset] = kept[0]

    def calls(self, module: Module) -> Calls:
        """How many system calls the module makes, and those by which masks and handlers of signals
        may change."""
        known = self._kept.calls(module)
        if known is None:
            from libbpf_shim.rewrite.numbers import SIGNALS, calls

            made = list(calls(module, self.cache))
            known = len(made), tuple(
                (c.at, c.place, c.numbers) for c in made
                if not c.numbers or not SIGNALS.isdisjoint(c.numbers))
            self._kept.add_calls(module, known)
        return known

    def keep(self, at_once: bool = False) -> None:
        """For later backends: plans that are new, now or when no more come."""
        self._kept.write(at_once)

    def returns(self, att: Attachment, kept: bool = False) -> Returns:
        """How the return of its function is seen, if it is asked for. kept: where return addresses
        must stay. ShimError EOPNOTSUPP: it cannot be seen then."""
        from libbpf_shim.rewrite.rets import ret_sites
        from libbpf_shim.rewrite.returns import Returns, plan_returns

        assert isinstance(att.place, Code)
        if not att.place.ret and not att.place.both:
            return Returns()
        module = self._files[att]
        vaddr = module.offset_to_vaddr(att.place.offset)
        key = (module, vaddr, kept)
        returns = self._returns.get(key)
        if returns is None:
            try:
                returns = (ret_sites(module, vaddr) if is_go(module)
                           else plan_returns(module, vaddr, kept))
                for leave in returns.leaves:
                    self.at(module, leave)
            except ShimError as error:
                returns = error
            self._returns[key] = returns
        if isinstance(returns, ShimError):
            raise returns
        if returns.kept and att.place.both:
            raise ShimError("AP0010", errno.EOPNOTSUPP,
                            f"{att.place}: a function whose return address must stay takes no "
                            "program of both ends")
        return returns

    def loaded(self, att: Attachment, modules: Sequence[LoadedModule]) -> list[LoadedModule]:
        """Where its file is among these. Its inode decides; its path, where a file system shows
        other device numbers in maps than in stat."""
        file = self._files[att]
        return [m for m in modules if m.ino == file.ino
                and (m.dev == file.dev or _seen(m.path) == _seen(file.path))]

    def mapped(self, att: Attachment, modules: Sequence[LoadedModule]) -> list[LoadedModule]:
        """Those that hold its place: a part of the file may be mapped once more."""
        found = self.loaded(att, modules)
        if len(found) < 2 or not isinstance(att.place, Code):
            return found
        offset = att.place.offset
        return [m for m in found if m.address(self._files[att], offset) is not None]

    def alike(self, atts: Iterable[Attachment]) -> dict[Attachment, list[Attachment]]:
        """Those that concern the same processes, by one of them."""
        found: dict[Attachment, list[Attachment]] = {}
        by_key: dict[object, list[Attachment]] = {}
        file: Module | None = None
        path, pid = "", 0
        same: list[Attachment] = []
        for att in atts:
            place = att.place
            if not isinstance(place, Code):
                found[att] = [att]
                continue
            known = self._files.get(att)
            if not same or known is not file or place.path != path or att.pid != pid:
                file, path, pid = known, place.path, att.pid
                same = by_key.setdefault((file, path, pid), [])
                if not same:
                    found[att] = same
            same.append(att)
        return found

    def here(self, target: Target, att: Attachment) -> bool:
        """Its file is mapped there."""
        return isinstance(att.place, Code) and bool(self.mapped(att, target.modules))

    def concerns(self, target: Target, att: Attachment) -> bool:
        """The file is mapped there. In a process with an agent also one that may come by a dlopen,
        and any event; one that is named gets its agent for an event too."""
        if self.here(target, att):
            return True
        if not target.root and not att.pid:
            return False
        return not isinstance(att.place, Code) or may_come(att.place)


def _seen(path: str) -> str:
    """A path below /proc/PID/root as that process has it."""
    return re.sub(r"^/proc/\d+/root(?=/)", "", path)


def may_come(place: Code) -> bool:
    """A library: dlopen may load it later."""
    return ".so" in os.path.basename(place.path)
