"""EIM: what an application lets be extended, what a manager grants, as the verifier holds it.

interface.py: the developer's file. grants.py: the manager's. policy.py: both as one class of the
verifier's. Nothing here touches a process. Model: docs/eim.md.
"""
