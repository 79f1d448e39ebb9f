"""The operations of the API, for asyncio."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Mapping, Optional, Sequence

from .errors import BrigadeError, ConnectionFailed
from .events import events
from .http import Http, segment

#: How long one long poll waits.
POLL = 20.0
WORK_PAUSE = 1.0


class Brigade:
    """A connection to a Brigade server. It keeps nothing open between requests.

    ``consumer`` names this program in the list of consumers (its host and process if it is not
    given), ``version`` is that of this program.
    """

    def __init__(self, url: str, token: Optional[str] = None, timeout: float = 30.0, **options: Any) -> None:
        self._http = Http(url, token, timeout, **options)

    async def push(
        self, queue: str, payload: Any, *, idempotency_key: Optional[str] = None, **options: Any
    ) -> Dict[str, Any]:
        """Pushes a job and gives ``{"id", "duplicate"}``.

        The push has an idempotency key (one of its own if none is given), so that it is repeated
        after a lost answer and yet stored once. A job with ``unique``, and one for a broker without
        unique keys (RabbitMQ), is sent once. ``options`` are those of a job: ``task``,
        ``priority``, ``delay``, ``retries``, ``key``, ``unique``, ``keep`` ..
        """
        body = {"payload": payload, **options}
        return await self._push(queue, body, idempotency_key, options.get("unique") is None)

    async def push_many(
        self, queue: str, jobs: Sequence[Mapping[str, Any]], *, idempotency_key: Optional[str] = None
    ) -> List[Dict[str, Any]]:
        """Pushes jobs (each ``{"payload": .., ..}``), all or none."""
        can_have_key = all(job.get("unique") is None for job in jobs)
        answer = await self._push(queue, list(jobs), idempotency_key, can_have_key)
        return answer["jobs"]

    async def _push(self, queue: str, body: Any, given: Optional[str], can_have_key: bool) -> Any:
        path = f"{_queue(queue)}/jobs"
        key = given or (secrets.token_hex(16) if can_have_key else None)
        if key is None:
            return await self._http.request("POST", path, body)
        try:
            headers = {"idempotency-key": key}
            return await self._http.request("POST", path, body, headers=headers, safe=True)
        except BrigadeError as error:
            # A broker without unique keys: nothing was stored.
            if error.kind != "unsupported" or given is not None:
                raise
            return await self._http.request("POST", path, body)

    async def push_flow(self, flow: Mapping[str, Any]) -> Dict[str, Any]:
        """Pushes a flow, all or none, and gives ``{"jobs", "last"}``, the ids of its jobs.

        It is ``{"chain": [job, ..]}``, or ``{"group": [[job, ..], ..]}`` with at most one of ``then``,
        ``collect`` and ``finally``. Every job has ``queue`` and ``payload``. It is sent once.
        """
        return await self._http.request("POST", "/v1/flows", flow)

    async def flow(self, id: str, *, wait: float = 0.0) -> Dict[str, Any]:
        """The flow of a job; with ``wait``, as soon as its last job has ended, or after that time."""
        return await self._http.request(
            "GET", f"/v1/flows/{segment(id)}", query={"wait": wait}, wait=wait, safe=True
        )

    async def take(self, queue: str, *, wait: float = 0.0) -> Optional[Dict[str, Any]]:
        """Takes the next job, which is gone from then on (at most once); ``None`` if none comes."""
        return await self._http.request("POST", f"{_queue(queue)}/take", query={"wait": wait}, wait=wait)

    async def lease(self, queue: str, *, time: float = 60.0, wait: float = 0.0) -> Optional["Lease"]:
        """Leases the next job (at least once); ``None`` if none comes."""
        query = {"time": time, "wait": wait}
        document = await self._http.request("POST", f"{_queue(queue)}/lease", query=query, wait=wait)
        return None if document is None else Lease(self._http, document)

    async def lease_many(
        self, queues: Sequence[str], *, max: int = 1, time: float = 60.0, wait: float = 0.0
    ) -> List["Lease"]:
        """Leases up to ``max`` jobs; a later queue gives jobs only while the earlier have none."""
        body = {"queues": list(queues), "max": max, "time": time, "wait": wait}
        answer = await self._http.request("POST", "/v1/leases", body, wait=wait)
        return [Lease(self._http, document) for document in answer["jobs"]]

    async def work(
        self,
        queue: str,
        handler: Callable[[Any, "Lease"], Awaitable[Any]],
        *,
        concurrency: int = 1,
        time: float = 60.0,
        stop: Optional[asyncio.Event] = None,
    ) -> None:
        """Leases jobs and awaits ``handler(payload, lease)`` for each, until ``stop`` is set.

        What it returns is the job's result; what it raises is the reason of its failure. Leases are
        extended while a handler runs; it is cancelled when its job is cancelled or lost. When
        ``stop`` is set, running handlers are finished first; when this call is cancelled, their jobs
        are given back, and one that is just on its way comes again when its lease runs out.
        """
        stop = stop or asyncio.Event()
        workers = [
            asyncio.ensure_future(self._work_one(queue, handler, time, stop)) for _ in range(concurrency)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            # The first failure ends all of them; their jobs are given back.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work_one(
        self,
        queue: str,
        handler: Callable[[Any, "Lease"], Awaitable[Any]],
        time: float,
        stop: asyncio.Event,
    ) -> None:
        while not stop.is_set():
            # A job that is on its way when the wait ends comes back, at the latest with its lease.
            leasing = asyncio.ensure_future(self.lease(queue, time=time, wait=POLL))
            stopping = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait([leasing, stopping], return_when=asyncio.FIRST_COMPLETED)
                if not leasing.done():
                    return
                lease = leasing.result()
            except (BrigadeError, ConnectionFailed) as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(WORK_PAUSE)
                continue
            finally:
                leasing.cancel()
                stopping.cancel()
            if lease is not None:
                await _run(lease, handler, time)

    async def call(self, task: str, args: Sequence[Any] = (), *, wait: float = 60.0, **options: Any) -> Any:
        """Calls a task and waits for its result. A call that ends otherwise is a ``BrigadeError``."""
        body = {"args": list(args), **options}
        path = f"/v1/calls/{segment(task)}"
        answer = await self._http.request("POST", path, body, query={"wait": wait}, wait=wait)
        return None if answer is None else answer.get("result")

    async def job(self, id: str, *, wait: float = 0.0) -> Dict[str, Any]:
        """A job with its history; with ``wait``, as soon as it has ended, or after that time."""
        return await self._http.request(
            "GET", f"/v1/jobs/{segment(id)}", query={"wait": wait}, wait=wait, safe=True
        )

    async def jobs(self, **filter: Any) -> Dict[str, Any]:
        """One page of jobs: ``{"jobs", "next"}``; ``next`` is the ``cursor`` of the next one."""
        return await self._http.request("GET", "/v1/jobs", query=filter, safe=True)

    async def why(self, id: str) -> Dict[str, Any]:
        """Why a job does not run now."""
        return await self._http.request("GET", f"/v1/jobs/{segment(id)}/why", safe=True)

    async def queues(self) -> Dict[str, Any]:
        """The queues with their counts."""
        return await self._http.request("GET", "/v1/queues", safe=True)

    async def consumers(self) -> List[Dict[str, Any]]:
        """The consumers that are alive, with what each runs."""
        return await self._http.request("GET", "/v1/consumers", safe=True)

    async def cancel(
        self, id: str, *, reason: Optional[str] = None, wait: Optional[float] = None
    ) -> Dict[str, Any]:
        """Cancels a job; with ``wait``, until nothing of it is left."""
        body = {"reason": reason, "wait": wait}
        return await self._http.request("POST", f"/v1/jobs/{segment(id)}/cancel", body, wait=wait or 0.0)

    async def retry(self, id: str, **changes: Any) -> str:
        """Gives a dead letter back to its queue; its id, which may be another one."""
        answer = await self._http.request("POST", f"/v1/jobs/{segment(id)}/retry", changes)
        return answer["id"]

    async def pause(self, queue: str) -> None:
        """Hands out nothing more of a queue until it is resumed."""
        await self._http.request("POST", f"{_queue(queue)}/pause", safe=True)

    async def resume(self, queue: str) -> None:
        """Ends the pause of a queue."""
        await self._http.request("POST", f"{_queue(queue)}/resume", safe=True)

    def events(
        self, *, queue: Optional[str] = None, after: Optional[str] = None
    ) -> AsyncIterator[Dict[str, Any]]:
        """Events of jobs as they happen: ``async for event in brigade.events()``."""
        return events(self._http, queue, after)


class Lease:
    """A job that was leased. Settle it once.

    Every settlement names the lease, so it is repeated after a lost answer; one that comes too late
    is a ``BrigadeError`` of the kind ``stale``. If that is ``uncertain``, the settlement was repeated,
    and the first attempt may have been carried out.
    """

    def __init__(self, http: Http, document: Mapping[str, Any]) -> None:
        self._http = http
        self.lease: str = document["lease"]
        self.id: str = document["id"]
        self.queue: str = document["queue"]
        self.task: Optional[str] = document.get("task")
        self.payload: Any = document["payload"]
        self.attempt: int = document["attempt"]
        self.lost: int = document["lost"]
        self.timeout: Optional[float] = document.get("timeout")
        self.priority: int = document["priority"]
        self.key: Optional[str] = document.get("key")
        self.label: Optional[str] = document.get("label")
        self.traceparent: Optional[str] = document.get("traceparent")

    async def ack(self, result: Any = None) -> None:
        """Done, with a result for callers that wait."""
        await self._settle("ack", {"result": result})

    async def nack(self, reason: str = "", *, after: Optional[float] = None) -> None:
        """Failed: tried again by the job's own policy or after a time, or a dead letter."""
        await self._settle("nack", {"reason": reason, "after": after})

    async def pass_on(self, reason: str = "", *, after: Optional[float] = None) -> None:
        """Given back untouched for another consumer, without charge."""
        await self._settle("pass", {"reason": reason, "after": after})

    async def give_back(self, reason: str = "", *, after: Optional[float] = None) -> None:
        """Given back because this worker stops, without charge."""
        await self._settle("give-back", {"reason": reason, "after": after})

    async def dead_letter(self, reason: str = "") -> None:
        """Set aside for a person."""
        await self._settle("dead-letter", {"reason": reason})

    async def cancelled(self, reason: str = "") -> None:
        """Ended as cancelled, as ``extend`` or ``progress`` asked."""
        await self._settle("cancelled", {"reason": reason})

    async def extend(self, time: float) -> Optional[str]:
        """Holds the job for this long from now on; the reason if it is to be cancelled."""
        return (await self._settle("extend", {"time": time}) or {}).get("cancel")

    async def progress(self, part: float, text: str = "") -> Optional[str]:
        """Reports progress, from 0 to 1; the reason if the job is to be cancelled."""
        return (await self._settle("progress", {"part": part, "text": text}) or {}).get("cancel")

    async def _settle(self, how: str, body: Mapping[str, Any]) -> Any:
        return await self._http.request("POST", f"/v1/leases/{self.lease}/{how}", body, safe=True)


async def _run(lease: Lease, handler: Callable[[Any, Lease], Awaitable[Any]], time: float) -> None:
    running = asyncio.ensure_future(handler(lease.payload, lease))
    cancel: Optional[str] = None
    is_lost = False

    async def extend() -> None:
        nonlocal cancel, is_lost
        while True:
            await asyncio.sleep(time / 3)
            try:
                cancel = await lease.extend(time)
            except BrigadeError as error:
                # Another holder may have the job by now.
                is_lost = error.kind == "stale"
            except ConnectionFailed:
                continue
            if cancel is not None or is_lost:
                running.cancel()
                return

    extending = asyncio.ensure_future(extend())
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.wait([running])
        await _quietly(lease.give_back("its worker stops"))
        raise
    finally:
        extending.cancel()
    if running.cancelled():
        if not is_lost:
            await _quietly(lease.cancelled(cancel or "") if cancel is not None else lease.nack("cancelled"))
        return
    error = running.exception()
    if error is None:
        await _ack(lease, running.result())
    else:
        await _quietly(lease.nack(str(error) or type(error).__name__))


async def _ack(lease: Lease, result: Any) -> None:
    """A result that cannot be sent would not be sent the next time either: the job has failed."""
    try:
        await lease.ack(result)
    except (BrigadeError, ConnectionFailed) as error:
        if not error.retryable and error.kind != "stale":
            await _quietly(lease.nack(f"its result cannot be sent: {error}"))
    except (TypeError, ValueError) as error:
        await _quietly(lease.nack(f"its result cannot be sent: {error}"))


async def _quietly(settlement: Awaitable[None]) -> None:
    """A settlement that is lost does no harm: the lease runs out, and the job comes back."""
    try:
        await settlement
    except (BrigadeError, ConnectionFailed):
        pass


def _queue(queue: str) -> str:
    return f"/v1/queues/{segment(queue)}"
