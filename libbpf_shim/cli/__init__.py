"""bpf-shim: the verbs, what they take, and what their exit codes say.

0 fine, 1 rejected, 2 asked wrongly, 3 cannot work here, 70 our bug. stdout is data,
everything else is stderr.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback

from libbpf_shim import __version__
from libbpf_shim.errors import ShimError

EX_SOFTWARE = 70


# The verbs of each module: whoever runs one does not load the others'.
MODULES = {
    "preload": ("run", "path", "env"),
    "attach": ("attach", "detach"),
    "doctor": ("doctor",),
    "listing": ("prog", "map", "link", "btf"),
    "load": ("load",),
    "verify": ("verify", "explain"),
    "serve": ("serve",),
    "token": ("token",),
    "policy": ("policy",),
}


def parser(verb: str = "") -> argparse.ArgumentParser:
    """Of that verb and its neighbours, else of every one; `handler` of the parsed arguments takes
    them and gives the exit code."""
    top = argparse.ArgumentParser(
        prog="bpf-shim", description="eBPF loaders and their targets without the kernel's BPF"
    )
    top.add_argument("--version", action="version", version=f"bpf-shim {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    for name in [name for name, its in MODULES.items() if verb in its] or MODULES:
        importlib.import_module(f"libbpf_shim.cli.{name}").add_verbs(verbs)
    return top


def told(error: ShimError) -> None:
    """To a person: what happened, and the next command where there is one."""
    print(f"bpf-shim: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and gives its exit code; never raises."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        chosen = parser(*arguments[:1]).parse_args(arguments)
        code: int = chosen.handler(chosen)
        sys.stdout.flush()
    except ShimError as error:
        told(error)
        return 2 if error.code.startswith("CL") else 3  # what was asked for, or where
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # argparse: 0 for --help, 2 for a wrong question
        return end.code if isinstance(end.code, int) else 2
    except Exception:
        traceback.print_exc()
        return EX_SOFTWARE
    return code
