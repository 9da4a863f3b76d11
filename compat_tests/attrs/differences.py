"""Where the answer is not the kernel's, on purpose: a closed list, each row in docs/parity.md.

A row is a pattern of case names (fnmatch), the errno here, and why. Every difference must be one
of a row's, and every row must have one.
"""

from __future__ import annotations

ROWS: tuple[tuple[str, int, str], ...] = ()
