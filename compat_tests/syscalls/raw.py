"""raw.py OBJECT LIBRARY: raw.bpf.o, and a process that asks eleven times for its number."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(sys.argv[2]))))

from libbpf_shim.client import Object  # noqa: E402

ASK = "import os\nprint([os.getpid() for _ in range(11)][0])"
with Object.open(sys.argv[1]).load() as made:
    links = [p.attach() for p in made.programs.values()]
    asked = subprocess.run(["/usr/bin/python3", "-c", ASK], capture_output=True, text=True,
                           env=dict(os.environ, LD_PRELOAD=sys.argv[2]), check=True)
    print(json.dumps([int(asked.stdout), [made.maps["out"][i] for i in range(5)]]))
