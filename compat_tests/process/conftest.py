"""The kernel is watched here as for the clients."""

from __future__ import annotations

from compat_tests.clients.conftest import kernel_runs_nothing_for_the_guard

__all__ = ["kernel_runs_nothing_for_the_guard"]
