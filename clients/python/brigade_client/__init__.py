"""Client of the HTTP API of Brigade (``brigade serve``). No dependencies, Python 3.9 or newer.

``Brigade`` is for asyncio, ``SyncBrigade`` for programs without it; both have the same methods.
"""

from .client import Brigade, Lease
from .errors import BrigadeError, ConnectionFailed, RequestTimeout, UnreadableAnswer
from .sync import SyncBrigade, SyncLease

__all__ = [
    "Brigade",
    "BrigadeError",
    "ConnectionFailed",
    "Lease",
    "RequestTimeout",
    "SyncBrigade",
    "SyncLease",
    "UnreadableAnswer",
]
