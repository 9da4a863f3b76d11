"""Who judges a program: what was kept of an earlier time, this process, or a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from libbpf_shim.backend.wire import BpfReply
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import tiers
from libbpf_shim.jit.build import Built, build
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.kept import Kept, key
from libbpf_shim.object.store import Object
from libbpf_shim.verifier.program import Program

# A program that is judged within some ten milliseconds is judged here.
_SLOTS = 1024
_PROCESSED = 2000
_LARGE = 1024  # bytes of BTF that takes longer to look at than a file


class Later(Exception):
    """The answer to a command waits for a verdict on the program. finish: what the command goes on
    with. held: refers to what must live until then."""

    def __init__(
        self, program: Program, finish: Callable[[Built], BpfReply], held: Object
    ) -> None:
        super().__init__(program.name)
        self.program, self.finish, self.held = program, finish, held


class Verdicts:
    """Those of one user, kept in a folder. here: small programs are judged in this process."""

    def __init__(self, folder: Path, here: bool = True) -> None:
        self._kept, self._here = Kept(folder), here

    def now(self, program: Program) -> Built | None:
        """The verdict, if it takes no time; else it is a worker's to find, and to be given to
        `keep`."""
        tier = tiers.chosen()
        name = key(program, tier)
        if found := self._kept.get(name):
            return found if tier == 2 else self._better(program, found)
        if not self._here or len(program.insns) > 8 * _SLOTS:
            return None
        from libbpf_shim.verifier.env import Unfinished

        try:
            built = build(program, _PROCESSED, tier)
        except Unfinished:
            return None
        self._kept.put(name, built)
        return built

    def types(self, blob: bytes) -> None:
        """What BTF_LOAD accepts: large BTF is looked at once. ShimError: what is wrong with it."""
        large = len(blob) >= _LARGE
        if large and self._kept.accepts(blob):
            return
        from libbpf_shim.btf.check import check

        check(blob)
        if large:
            self._kept.accept(blob)

    def _better(self, program: Program, built: Built) -> Built:
        """With the image of tier 2, if it was made at another time."""
        facts = built.verdict.facts
        if not facts or not built.image or not tiers.pays(program, facts) or not tiers.improves():
            return built
        return self._kept.get(key(program, 2)) or built

    def improved(self, program: Program, image: Image) -> None:
        """Tier 2's code of a program whose verdict is kept."""
        if found := self._kept.get(key(program)):
            self._kept.put(key(program, 2), replace(found, image=image))

    def keep(self, program: Program, built: Built) -> None:
        self._kept.put(key(program, tiers.chosen()), built)


def or_raise(result: Built | ShimError) -> Built:
    """What a worker came to."""
    if isinstance(result, ShimError):
        raise result
    return result
