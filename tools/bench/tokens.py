"""What checking a token costs, in `make bench`: CPU time of the fastest of some rounds, in
us, so that a busy machine disturbs it least.

From the text that a loader sends to the grant: reading it, the chain of HMACs, the claims of each
step, revocations, expiry. A program's run is told apart. 1 if a token of four steps takes more
than WANTED us.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from libbpf_shim.isa.insn import Insn, encode  # noqa: E402
from libbpf_shim.token import chain, judge, program, request  # noqa: E402
from libbpf_shim.token.claims import EVERYWHERE, Attach, Claims  # noqa: E402

WANTED = 50.0  # us
_ROUNDS, _TIMES = 200, 100
KEY = bytes(32)
# return ctx->insn_cnt <= 4096
_SHORT = encode([Insn(0x61, 2, 1, request.place("insn_cnt")[0], 0), Insn(0xB7, 0, 0, 0, 0),
                 Insn(0x25, 2, 0, 1, 4096), Insn(0xB7, 0, 0, 0, 1), Insn(0x95, 0, 0, 0, 0)])


def fastest(work: Callable[[], object]) -> float:
    """us a call."""
    found = []
    for _ in range(_ROUNDS):
        began = time.thread_time_ns()
        for _ in range(_TIMES):
            work()
        found.append((time.thread_time_ns() - began) / _TIMES / 1000)
    return min(found)


def main() -> int:
    token = chain.mint(KEY, Claims(
        expires=1 << 40, uids=(0, 1000, 1001), build_ids=(b"a" * 20, b"b" * 20),
        classes=("firewall", "observe"), attach=EVERYWHERE, map_bytes=1 << 30))
    texts = [chain.to_text(token).encode()]
    for step in (Claims(uids=(1000, 1001), map_bytes=1 << 20),
                 Claims(build_ids=(b"a" * 20,), attach=Attach.UPROBE | Attach.URETPROBE),
                 Claims(expires=1 << 39, classes=("observe",))):
        token = chain.attenuate(token, step)
        texts.append(chain.to_text(token).encode())
    took = 0.0
    for steps, text in enumerate(texts, 1):
        took = fastest(lambda text=text: chain.check(KEY, chain.from_text(text)))  # type: ignore[misc]
        print(f"token of {steps} step{'s' if steps > 1 else ' '}: {took:6.1f} us to check")
    grant = chain.check(KEY, token)
    asked = request.Request(request.Op.ATTACH, uid=1000, attach=Attach.UPROBE, build_id=b"a" * 20)
    programs = program.Programs()
    took_request = fastest(lambda: judge.missing(grant, asked, {}, programs))
    print(f"  a request of it:  {took_request:6.1f} us")
    programs.why_not(_SHORT)
    print(f"  a program's run:  {fastest(lambda: programs.grants(_SHORT, asked, 0)):6.1f} us "
          "(5 instructions, verified before)")
    return int(took > WANTED)


if __name__ == "__main__":
    sys.exit(main())
