"""The Python API: BPF objects from a file, their maps, programs, links and rings.

It speaks to the backend as the preloaded library does (shim_wire.h), so that nothing need be
preloaded; elements of maps and records of rings are read and written in shared memory.
"""

from __future__ import annotations

from libbpf_shim.client.link import Link
from libbpf_shim.client.map import Map, Queue
from libbpf_shim.client.object import Object
from libbpf_shim.client.perf import PerfBuffer
from libbpf_shim.client.program import Program
from libbpf_shim.client.ringbuf import RingBuffer
from libbpf_shim.client.session import Session

__all__ = ["Link", "Map", "Object", "PerfBuffer", "Program", "Queue", "RingBuffer", "Session"]
