"""``adreg pull`` of an adapter that is well, from a Hub that is well."""

from __future__ import annotations

import json

from hubserver import Hub
from running import Adreg


def test_pull_adds(online: Hub, adapter_repo: str, adreg: Adreg) -> None:
    """A pulled adapter is in the catalog."""
    ran = adreg("pull", adapter_repo, "--json")
    print(ran)
    assert ran.code == 0
    print(json.loads(ran.out))
    print([(r.method, r.path, r.status) for r in online.requests])
    online.requests.clear()
    ran = adreg("pull", adapter_repo)
    print(ran, [(r.method, r.path, r.status) for r in online.requests])
    ran = adreg("show", "alice/support", "--json")
    print(ran.out)
    ran = adreg("outdated", "--all")
    print(ran)
    raise AssertionError
