"""python -m libbpf_shim: the bpf-shim command."""

from __future__ import annotations

import sys

from libbpf_shim.cli import main

sys.exit(main())
