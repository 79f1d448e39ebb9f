"""Events of jobs, over server-sent events with resume."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional

from .errors import BrigadeError, ConnectionFailed, UnreadableAnswer
from .http import Http, read_answer

PAUSE = 0.5
PAUSE_MAX = 10.0
#: The longest event that is read, in characters.
EVENT_CHARS_MAX = 1 << 20
#: Nothing for so long, not even a comment of the server, means a dead connection.
SILENCE = 60.0

_LINE_END = re.compile(r"\r\n|\n|\r(?!$)")


async def events(
    http: Http, queue: Optional[str] = None, after: Optional[str] = None
) -> AsyncIterator[Dict[str, Any]]:
    """Events after a place, or from now on. After a lost connection it goes on where it was."""
    last = after
    failures = 0
    while True:
        try:
            async for event in _connection(http, queue, last):
                failures = 0
                last = event.get("cursor") or last
                # What the server says of the stream itself: where it begins, or why it ends.
                if event["kind"] == "open":
                    continue
                if "status" in event and "title" in event:
                    raise BrigadeError(event["status"], event)
                yield event
        except (BrigadeError, ConnectionFailed) as error:
            # The first connection: a wrong URL must not be repeated for ever in silence.
            is_first = last is None and failures == 0 and isinstance(error, ConnectionFailed)
            if is_first or not error.retryable:
                raise
            failures += 1
        await asyncio.sleep(min(PAUSE * 2 ** min(failures, 6), PAUSE_MAX))


async def _connection(http: Http, queue: Optional[str], last: Optional[str]) -> AsyncIterator[Dict[str, Any]]:
    headers = {"accept": "text/event-stream"}
    if last is not None:
        headers["last-event-id"] = last
    try:
        response = await asyncio.wait_for(
            http.open("GET", "/v1/events", query={"queue": queue}, headers=headers), http.timeout
        )
        try:
            if response.status != 200:
                read_answer(response.status, await asyncio.wait_for(response.read(), http.timeout))
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            parser = Parser()
            pieces = response.pieces().__aiter__()
            while True:
                try:
                    piece = await asyncio.wait_for(pieces.__anext__(), SILENCE)
                except StopAsyncIteration:
                    return
                for event in parser.feed(decoder.decode(piece)):
                    yield event
        finally:
            response.close()
    except asyncio.TimeoutError:
        raise ConnectionFailed("the connection is silent") from None


class Parser:
    """The text of an event stream, as the HTML standard has it."""

    def __init__(self) -> None:
        self._rest = ""
        self._data: List[str] = []
        self._event = ""
        self._id: Optional[str] = None

    def feed(self, text: str) -> Iterator[Dict[str, Any]]:
        """The events that a piece of text completes."""
        self._rest += text
        if len(self._rest) > EVENT_CHARS_MAX:
            raise UnreadableAnswer("an event is too long")
        lines = _LINE_END.split(self._rest)
        self._rest = lines.pop()
        for line in lines:
            if line:
                self._take(line)
                continue
            event = self._complete()
            if event is not None:
                yield event

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value

    def _complete(self) -> Optional[Dict[str, Any]]:
        data, kind, cursor = self._data, self._event, self._id
        self._data, self._event, self._id = [], "", None
        if not data:
            return None
        try:
            value: Dict[str, Any] = json.loads("\n".join(data))
        except ValueError as error:
            raise UnreadableAnswer("an event is no JSON: is this a Brigade server?") from error
        value.setdefault("kind", kind or "message")
        if cursor is not None:
            value["cursor"] = cursor
        return value
