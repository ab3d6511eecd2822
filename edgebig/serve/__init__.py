"""A bundle for other processes of the same machine, through shared memory: docs/shared-memory.md.

    edgebig serve resnet50.bundle --shm camera

    from edgebig.serve import Client

    with Client("camera") as model:
        logits = model.run({"pixel_values": batch})["logits"]

It needs the runtime, and a module that is compiled when edgebig is installed.
"""

from __future__ import annotations

from edgebig.serve.client import Client, ServerGone, ServerTimeout, Slot
from edgebig.serve.server import Server
from edgebig.serve.sizes import largest_shapes
from edgebig.serve.status import status

__all__ = ["Client", "Server", "ServerGone", "ServerTimeout", "Slot", "largest_shapes", "status"]
