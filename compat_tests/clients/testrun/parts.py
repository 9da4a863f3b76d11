"""The parts of what is run, by name."""

from collections.abc import Callable

from compat_tests.clients.testrun import calls, contexts, headers, helpers, nested, threads
from compat_tests.clients.testrun.bpf import (
    CLS,
    EXIT,
    PACKET,
    XDP,
    call,
    insn,
    load,
    ret,
    run,
    say,
)


def differences() -> None:
    """What is not there in userspace (docs/parity.md): not compared."""
    clone = insn(0xB7, 2, 0, 0, -1) + insn(0xB7, 3, 0, 0, 0) + call(13) + EXIT
    say("a helper that is not there", run(load(CLS, clone), PACKET, None))
    say("live frames", run(load(XDP, ret(2)), PACKET, None, flags=2))
    say("a checksum over the packet", run(load(CLS, ret(2)), PACKET, None, flags=4))


PARTS: dict[str, Callable[[], None]] = {f.__name__: f for f in (
    contexts.sizes, contexts.fields, contexts.skb_contexts, contexts.xdp_contexts,
    contexts.xdp_helpers, contexts.packets, helpers.skb_helpers, helpers.csum_replace,
    helpers.csum_diff, helpers.ld_abs, helpers.memory, headers.vlan, headers.protocols,
    headers.marks, headers.sockets, headers.devices, headers.encap, headers.tunnel,
    calls.callbacks, calls.locks, calls.strings, calls.tasks, threads.timers,
    threads.interrupted, threads.threads, threads.contend, nested.commands, nested.objects,
    nested.turns, nested.closes, nested.ended, nested.names)}  # fmt: skip
