"""Cycles of objects, which Python looks for whenever enough objects were made: a link of many
places makes them by the thousand, and all stay. Here they are looked for while nobody waits."""

from __future__ import annotations

import gc

QUIET = 0.02  # seconds without a request
_MOST = 100_000  # objects more than there were: then nobody is waited for


def patience() -> float | None:
    """How long it has to be quiet until they are looked for. seconds; None: there is no need."""
    return QUIET if gc.get_count()[0] > gc.get_threshold()[0] else None


def look(quiet: bool) -> None:
    """Of the generation whose turn it is, as Python does it."""
    young, middle, old = gc.get_count()
    least, some, many = gc.get_threshold()
    if young > (least if quiet else _MOST):
        gc.collect(2 if old > many else 1 if middle > some else 0)
