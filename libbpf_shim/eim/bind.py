"""Which class a program has: exactly one, before it is verified."""

from __future__ import annotations

import errno

from libbpf_shim.eim import policy as policies
from libbpf_shim.eim.grants import Grants
from libbpf_shim.errors import ShimError
from libbpf_shim.verifier.policy import Policy


def one(grants: Grants, name: str, digest: bytes, uid: int) -> str:
    """The name of a program's class. digest: SHA-256 of its instructions, without what maps they
    name. EPERM: bindings give it none, or several."""
    found = grants.bound(name, digest, uid)
    if len(found) == 1:
        return found[0]
    path = grants.document.path
    if found:
        raise several(name, [(path, of) for of in found])
    text = f"program {name} (tag {digest[:8].hex()}) of user {uid}: bound to no class in {path}"
    raise ShimError("EP0002", errno.EPERM, text,
                    f"to bind it, add to bindings: - {{class: NAME, name: {name}}}")


def several(name: str, found: list[tuple[str, str]]) -> ShimError:
    """To be raised. found: files and their classes."""
    where = ", ".join(dict.fromkeys(path for path, _ in found))
    text = f"program {name}: bound to {len(found)} classes in {where}: " \
           f"{', '.join(of for _, of in found)}"
    return ShimError("EP0003", errno.EPERM, text, "make one of the bindings narrower")


def policy(grants: Grants, name: str) -> Policy:
    """A class by name. EINVAL: there is no such class, or it cannot be held."""
    if name not in grants.classes:
        text = f"{grants.document.path}: no class {name}"
        raise ShimError("EP0004", errno.EINVAL, text, f"it has {', '.join(grants.classes)}")
    return policies.policy(grants, name)
