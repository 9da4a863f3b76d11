"""Whether a grant permits a request: every step must, each for itself."""

from __future__ import annotations

from collections.abc import Mapping

from libbpf_shim.token.chain import Grant
from libbpf_shim.token.claims import Claims
from libbpf_shim.token.program import Programs
from libbpf_shim.token.request import Op, Request


def missing(
    grant: Grant, request: Request, used: Mapping[bytes, int], programs: Programs
) -> str:
    """The capability that is missing; "": permitted. used: bytes of living maps by the name of the
    token that they were made with, and of those it comes from. ShimError EPERM: a program of the
    token's is none.

    The step of each is asked with what was used by all that comes of that step, so that whoever
    narrows a token gives a part of his own, and gains nothing.
    """
    for name, claims in zip(grant.ids, grant.steps, strict=True):
        if lacks := _step(claims, request, used.get(name, 0)):
            return lacks
    # programs come last: the rest is cheaper
    for name, claims in zip(grant.ids, grant.steps, strict=True):
        if claims.program and not programs.grants(claims.program, request, used.get(name, 0)):
            return "program: it says no"
    return ""


def _step(claims: Claims, request: Request, used: int) -> str:
    if claims.expires is not None and request.now >= claims.expires:
        return "expires"
    if claims.uids is not None and request.uid not in claims.uids:
        return f"uid {request.uid}"
    if claims.classes is not None and request.op == Op.LOAD and request.class_ is not None \
            and request.class_ not in claims.classes:
        return f"class {request.class_}" if request.class_ else "a program without a class"
    if claims.map_bytes is not None and request.op == Op.MAP \
            and used + request.map_bytes > claims.map_bytes:
        return f"map_bytes {used + request.map_bytes}"
    if request.op in (Op.ATTACH, Op.RUN) and claims.attach is not None \
            and not request.attach & claims.attach:
        return f"attach {(request.attach.name or '').lower()}"
    if claims.build_ids is not None and request.op == Op.ATTACH \
            and request.build_id not in claims.build_ids:
        return f"build_id {request.build_id.hex()}" if request.build_id else \
            "attachment to no file"
    return ""
