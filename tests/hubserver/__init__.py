"""A Hub for tests: a real HTTP server on loopback that the unmodified Hub clients talk to.

Nouns: a **repo** holds **commits**; a commit maps paths to **entries**; an entry names an
**object** by its sha256. A **fault** makes the server misbehave on one kind of request.
"""

from hubserver.faults import Fault
from hubserver.hub import Hub
from hubserver.log import Request

__all__ = ["Fault", "Hub", "Request"]
