"""The same operations for programs without asyncio: each runs to its end in a loop of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from .client import Brigade, Lease


class SyncBrigade:
    """As ``Brigade``, but each method returns when it is done. Not for use inside of a running loop."""

    def __init__(self, url: str, token: Optional[str] = None, timeout: float = 30.0, **options: Any) -> None:
        self._brigade = Brigade(url, token, timeout, **options)

    def push(self, queue: str, payload: Any, **options: Any) -> Dict[str, Any]:
        return asyncio.run(self._brigade.push(queue, payload, **options))

    def push_many(self, queue: str, jobs: Sequence[Mapping[str, Any]], **options: Any) -> List[Dict[str, Any]]:
        return asyncio.run(self._brigade.push_many(queue, jobs, **options))

    def push_flow(self, flow: Mapping[str, Any]) -> Dict[str, Any]:
        return asyncio.run(self._brigade.push_flow(flow))

    def flow(self, id: str, *, wait: float = 0.0) -> Dict[str, Any]:
        return asyncio.run(self._brigade.flow(id, wait=wait))

    def take(self, queue: str, *, wait: float = 0.0) -> Optional[Dict[str, Any]]:
        return asyncio.run(self._brigade.take(queue, wait=wait))

    def lease(self, queue: str, *, time: float = 60.0, wait: float = 0.0) -> Optional["SyncLease"]:
        lease = asyncio.run(self._brigade.lease(queue, time=time, wait=wait))
        return None if lease is None else SyncLease(lease)

    def call(self, task: str, args: Sequence[Any] = (), *, wait: float = 60.0, **options: Any) -> Any:
        return asyncio.run(self._brigade.call(task, args, wait=wait, **options))

    def job(self, id: str, *, wait: float = 0.0) -> Dict[str, Any]:
        return asyncio.run(self._brigade.job(id, wait=wait))

    def jobs(self, **filter: Any) -> Dict[str, Any]:
        return asyncio.run(self._brigade.jobs(**filter))

    def why(self, id: str) -> Dict[str, Any]:
        return asyncio.run(self._brigade.why(id))

    def queues(self) -> Dict[str, Any]:
        return asyncio.run(self._brigade.queues())

    def consumers(self) -> List[Dict[str, Any]]:
        return asyncio.run(self._brigade.consumers())

    def cancel(self, id: str, **options: Any) -> Dict[str, Any]:
        return asyncio.run(self._brigade.cancel(id, **options))

    def retry(self, id: str, **changes: Any) -> str:
        return asyncio.run(self._brigade.retry(id, **changes))

    def pause(self, queue: str) -> None:
        asyncio.run(self._brigade.pause(queue))

    def resume(self, queue: str) -> None:
        asyncio.run(self._brigade.resume(queue))

    def events(self, *, queue: Optional[str] = None, after: Optional[str] = None) -> Iterator[Dict[str, Any]]:
        """Events of jobs as they happen: ``for event in brigade.events()``."""
        loop = asyncio.new_event_loop()
        stream = self._brigade.events(queue=queue, after=after)
        try:
            while True:
                yield loop.run_until_complete(stream.__anext__())
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


class SyncLease:
    """As ``Lease``, whose data it has, but each method returns when it is done."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def ack(self, result: Any = None) -> None:
        asyncio.run(self._lease.ack(result))

    def nack(self, reason: str = "", *, after: Optional[float] = None) -> None:
        asyncio.run(self._lease.nack(reason, after=after))

    def pass_on(self, reason: str = "", *, after: Optional[float] = None) -> None:
        asyncio.run(self._lease.pass_on(reason, after=after))

    def give_back(self, reason: str = "", *, after: Optional[float] = None) -> None:
        asyncio.run(self._lease.give_back(reason, after=after))

    def dead_letter(self, reason: str = "") -> None:
        asyncio.run(self._lease.dead_letter(reason))

    def cancelled(self, reason: str = "") -> None:
        asyncio.run(self._lease.cancelled(reason))

    def extend(self, time: float) -> Optional[str]:
        return asyncio.run(self._lease.extend(time))

    def progress(self, part: float, text: str = "") -> Optional[str]:
        return asyncio.run(self._lease.progress(part, text))
