"""Requests over HTTP/1.1: a connection for each, a time limit, and repetitions where these are safe.

A request is repeated only if it changes nothing, or if doing it twice is the same as once (a push
with an idempotency key, the settlement of a lease, which names the lease). Others are sent once.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from typing import Any, AsyncIterator, Dict, Mapping, Optional, Tuple
from urllib.parse import quote, urlencode, urlsplit

from .errors import BrigadeError, ConnectionFailed, RequestTimeout, UnreadableAnswer

#: Attempts of a request that may be repeated.
ATTEMPTS_MAX = 4
PAUSE = 0.1
PAUSE_MAX = 2.0
#: What a request has beyond the time for which the server waits for it.
MARGIN = 10.0
#: The longest line of a head or of a chunk's size, and the longest answer.
LINE_BYTES_MAX = 64 << 10
HEADERS_MAX = 200
ANSWER_BYTES_MAX = 256 << 20


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


class Http:
    def __init__(
        self,
        url: str,
        token: Optional[str] = None,
        timeout: float = 30.0,
        ssl_context: Optional[ssl.SSLContext] = None,
        consumer: Optional[str] = None,
        version: Optional[str] = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL of a server is http://HOST or https://HOST, with a path or none")
        if parts.username or parts.password:
            raise ValueError("give the token as an argument: a URL with a password ends up in logs")
        if token is not None and ("\r" in token or "\n" in token):
            raise ValueError("a token has no line breaks")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.authority = parts.netloc
        self.base = parts.path.rstrip("/")
        self.token = token
        self.timeout = timeout
        # How this program is named in the list of consumers.
        self.consumer = consumer or f"{socket.gethostname()}; pid={os.getpid()}"
        if version is not None:
            self.consumer += f"; version={version}"
        self.ssl = (ssl_context or ssl.create_default_context()) if parts.scheme == "https" else None

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        wait: float = 0.0,
        safe: bool = False,
    ) -> Any:
        """Sends a request; the JSON of its answer, or ``None`` for an empty one.

        ``wait`` is how long the server waits before it answers; ``safe`` says that the request may
        be repeated.
        """
        limit = max(self.timeout, wait + MARGIN)
        attempt = 1
        while True:
            try:
                try:
                    return await asyncio.wait_for(self._once(method, path, body, query, headers), limit)
                except asyncio.TimeoutError:
                    raise RequestTimeout(f"{method} {path}: no answer within {limit:g} s") from None
            except (BrigadeError, ConnectionFailed) as error:
                if attempt > 1 and error.kind == "stale":
                    # An attempt before this one may have settled the lease, and its answer was lost.
                    error.uncertain = True
                if not safe or attempt >= ATTEMPTS_MAX or not error.retryable:
                    raise
                await asyncio.sleep(min(PAUSE * 2**attempt, PAUSE_MAX))
                attempt += 1

    async def _once(
        self,
        method: str,
        path: str,
        body: Any,
        query: Optional[Mapping[str, Any]],
        headers: Optional[Mapping[str, str]],
    ) -> Any:
        response = await self.open(method, path, body, query, headers)
        try:
            text = await response.read()
        finally:
            response.close()
        return read_answer(response.status, text)

    async def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> "Response":
        """Sends a request and gives the response as it comes; close it."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = self.base + path + ("?" + urlencode(given) if given else "")
        fields: Dict[str, str] = {
            "host": self.authority,
            "accept": "application/json",
            "connection": "close",
            "brigade-consumer": self.consumer,
        }
        data = b""
        if body is not None:
            data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
            fields["content-type"] = "application/json"
        if method != "GET":
            fields["content-length"] = str(len(data))
        if self.token is not None:
            fields["authorization"] = f"Bearer {self.token}"
        fields.update(headers or {})
        for name, value in fields.items():
            if "\r" in value or "\n" in value or not value.isascii():
                raise ValueError(f"the header {name} has a line break, or letters beyond ASCII")
        head = f"{method} {target} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        try:
            reader, writer = await asyncio.open_connection(
                self.host, self.port, ssl=self.ssl, limit=LINE_BYTES_MAX
            )
        except OSError as error:
            raise ConnectionFailed(f"{method} {path}: {error}") from error
        try:
            writer.write(head.encode("latin-1") + data)
            await writer.drain()
            status, received = await _read_head(reader)
        except (OSError, EOFError, ValueError) as error:
            writer.close()
            raise ConnectionFailed(f"{method} {path}: {error or 'the connection broke'}") from error
        except BaseException:
            writer.close()
            raise
        return Response(status, received, reader, writer)


class Response:
    """An answer whose body has not been read."""

    def __init__(
        self,
        status: int,
        headers: Dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    async def read(self) -> bytes:
        """The whole body."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise ConnectionFailed("the answer is too long")
        return bytes(body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        try:
            if self.status == 204:
                return
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                while True:
                    line = await self._reader.readline()
                    if not line:
                        raise EOFError("the connection broke")
                    size = int(line.split(b";")[0], 16)
                    if size == 0:
                        return
                    while size > 0:
                        piece = await self._reader.read(min(size, LINE_BYTES_MAX))
                        if not piece:
                            raise EOFError("the connection broke")
                        size -= len(piece)
                        yield piece
                    await self._reader.readexactly(2)
            length = self.headers.get("content-length")
            left = int(length) if length is not None else None
            while left is None or left > 0:
                piece = await self._reader.read(LINE_BYTES_MAX if left is None else min(left, LINE_BYTES_MAX))
                if not piece:
                    if left is None:
                        return
                    raise EOFError("the connection broke")
                left = None if left is None else left - len(piece)
                yield piece
        except (OSError, EOFError, ValueError) as error:
            raise ConnectionFailed(str(error) or "the connection broke") from error


async def _read_head(reader: asyncio.StreamReader) -> Tuple[int, Dict[str, str]]:
    while True:
        line = await reader.readline()
        if not line:
            raise EOFError("the server closed the connection")
        parts = line.decode("latin-1").split(None, 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1."):
            raise ValueError("the answer is not HTTP/1.1")
        status = int(parts[1])
        headers: Dict[str, str] = {}
        while True:
            line = await reader.readline()
            if line in (b"\r\n", b"\n"):
                break
            if not line or len(headers) >= HEADERS_MAX:
                raise ValueError("the head of the answer does not end")
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if status >= 200:
            return status, headers


def read_answer(status: int, text: bytes) -> Any:
    """The JSON of a good answer; raises the problem of another."""
    if 200 <= status < 300:
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise UnreadableAnswer("the answer is no JSON: is this a Brigade server?") from error
    try:
        problem = json.loads(text)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        # Not from the server itself: a proxy, perhaps.
        problem = {"detail": text[:500].decode("utf-8", "replace")} if text else {}
    raise BrigadeError(status, problem)
