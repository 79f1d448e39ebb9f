"""What can go wrong: the server's problems by their kinds, a lost connection, a time that is over."""

from __future__ import annotations

from typing import Any, Dict, List, Optional


class BrigadeError(Exception):
    """The server refused, or could not: ``application/problem+json`` (RFC 9457)."""

    def __init__(self, status: int, problem: Dict[str, Any]) -> None:
        detail = problem.get("detail") or problem.get("title")
        super().__init__(detail or f"the server answered {status}")
        #: The status of the response.
        self.status = status
        #: What went wrong, to branch on: ``unknown_queue``, ``stale``, ``too_large``, ``failed`` ..
        self.kind: str = problem.get("kind", "unknown")
        #: Whether the same request may succeed later without a change.
        self.retryable: bool = problem.get("retryable", status == 503)
        #: Whether the request may have been carried out nevertheless.
        self.uncertain: bool = problem.get("uncertain", False)
        #: The line of the body that is at fault, from 1.
        self.line: Optional[int] = problem.get("line")
        #: Names that there are and that look like the one that was asked for.
        self.did_you_mean: List[str] = problem.get("did_you_mean", [])
        #: The whole document.
        self.problem = problem


class ConnectionFailed(Exception):
    """The server could not be reached, or the connection broke."""

    kind = "connection"
    retryable = True
    #: A request that was sent may have been carried out.
    uncertain = True


class UnreadableAnswer(ConnectionFailed):
    """What came is no answer of a Brigade server: repeating the request would not help."""

    kind = "unreadable"
    retryable = False


class RequestTimeout(ConnectionFailed):
    """The server did not answer in time."""

    kind = "timeout"
