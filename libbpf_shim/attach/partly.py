"""Places of a link that cannot be in some process: the others are there all the same, if the link
is one for every process. Who names a process is answered by an errno."""

from __future__ import annotations

import errno
from collections.abc import Callable

from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.objects import skips
from libbpf_shim.attach.process import Process
from libbpf_shim.errors import ShimError

_TRAPPED = "AP0007"  # the code of an error: a thread blocks SIGTRAP


class Partly:
    """Of one visit. left: why what was left out was."""

    def __init__(self) -> None:
        self.left: dict[Attachment, ShimError] = {}

    def leaves_out(self, att: Attachment, error: ShimError) -> bool:
        """A place that cannot be. Links at what leaves a function do nothing without the one at
        its entry."""
        if not _may_be_left_out(att):
            return False
        known = error.errno == errno.EOPNOTSUPP or error.code == _TRAPPED
        if known:
            self.left[att] = error
        return known

    def leaves_to_others(self, atts: list[Attachment], error: ShimError) -> bool:
        """Places where somebody else's bytes stand."""
        if not all(map(_may_be_left_out, atts)):
            return False
        self.left.update((att, error) for att in atts)
        return True

    def nothing(self, process: Process | None) -> dict[int, ShimError]:
        """Links of which nothing is there, and why."""
        linked = {link_id for link_id, _ in process.linked} if process else set()
        return {att.link_id: why for att, why in self.left.items() if att.link_id not in linked}

    def tell(self, process: Process | None, notice: Callable[[str], None]) -> None:
        """One line, of the first place that was left out; not twice."""
        if not process or not self.left:
            return
        first = next(iter(self.left.values())).message
        if first not in process.refused:
            process.refused.append(first)
            places = "1 place" if len(self.left) == 1 else f"{len(self.left)} places"
            notice(f"process {process.pid}: not attached at {places}: {first}")


def _may_be_left_out(att: Attachment) -> bool:
    return not att.pid and isinstance(att.place, Code) and not skips(att.prog)
