"""A chat model behind any server that speaks OpenAI's protocol (`POST /chat/completions`).

    ask --> budget --> place among `concurrent` --> turn within `per_minute` --> request --> strict reading --> Reply
                                   ^------------------ pause, with jitter ------------'  (busy, broken, silent: again)

A server may be slow, broken or hostile. A request has one time limit for everything, an answer a largest size that is
enforced while it is read (unpacked answers are refused), redirects are not followed. What fails is an error: never a
number, never text that somebody could read as a verdict. The key is read from its environment variable for each
request, goes into one header, and is taken out of whatever a message quotes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from time import time

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from rewarders import completion
from rewarders.chat import SPENT, BudgetSpent, Reply, TooLong
from swarm.config import JudgeSection

LARGEST_BODY = 1 << 20
"""Bytes of an answer; a judge's verdict with its log-probabilities takes some thousand."""
LONGEST_WAIT_S = 60.0
"""A server that asks for a longer pause than this is not waited for."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
TOP_LOGPROBS = 20
"""The most that OpenAI and vLLM give by default."""
LONGEST_EXCERPT = 120
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses of a server that may do better in a while."""
TOO_LONG = re.compile(rb"context[ _](?:length|size|window)|maximum model length|prompt is too long", re.IGNORECASE)
"""How servers say in a refusal (400, 413, 422) that messages do not fit: OpenAI, vLLM, SGLang, llama.cpp, ..."""
BYTES_PER_TOKEN = 3
"""For the budget, where a server does not say what it used."""


class _Again(Exception):
    """Worth another try; `error` is what to raise when there is none left."""

    def __init__(self, error: Exception, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


@dataclass(slots=True)
class PerMinute:
    """Turns, at most `limit` in any minute; 0 for no limit."""

    limit: int
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _taken: deque[float] = field(default_factory=deque)

    async def turn(self) -> None:
        """Wait for one and take it."""
        while self.limit:
            now = self.clock()
            while self._taken and self._taken[0] + 60.0 - now <= 0:
                self._taken.popleft()
            if len(self._taken) < self.limit:
                self._taken.append(now)
                return
            await self.sleep(self._taken[0] + 60.0 - now)


@dataclass(slots=True)
class _Line:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    places: asyncio.Semaphore
    turns: PerMinute


class Endpoint:
    """`chat.ChatModel` over HTTP, as a `[[rewarders.judges]]` section describes it.

    Raises ValueError, when made, for a section without an endpoint, an endpoint that is no URL, or a key variable that
    is not set.
    """

    def __init__(self, section: JudgeSection) -> None:
        if problem := endpoint_problem(section.endpoint):
            raise ValueError(f"rewarders.judges, {section.name}: endpoint = {problem}")
        if section.key_env and (problem := key_problem(section.key_env)):
            raise ValueError(f"rewarders.judges, {section.name}: {problem}")
        # below INFO it writes down headers of answers, in which a server may repeat the key
        logging.getLogger("httpcore").setLevel(logging.INFO)
        self.name = f"{section.name}/{section.model}"
        self.spent_tokens = 0
        """Asked and answered so far, as the server counts them; requests under way with what they may take."""
        self._section = section
        self._url = section.endpoint.rstrip("/") + "/chat/completions"
        self._line: _Line | None = None

    async def ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, choices: Sequence[str] = ()
    ) -> Reply:
        """One greedy reply. Raises BudgetSpent, TimeoutError, ConnectionError or ValueError, see `chat.ChatModel`."""
        body = {"model": self._section.model, "messages": list(messages), "max_tokens": max_tokens, "temperature": 0}
        if choices:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        text = json.dumps(body)
        reserved = len(text) // BYTES_PER_TOKEN + max_tokens
        budget = self._section.budget_tokens
        if budget and self.spent_tokens + reserved > budget:
            raise BudgetSpent(f"{self.name}: {self.spent_tokens} {SPENT} {budget} are used up")
        self.spent_tokens += reserved
        line = self._present_line()
        try:
            async with line.places:
                reply = await self._persistently(line, text.encode(), choices)
        except TimeoutError:
            raise  # what was asked may well have been paid for: it stays reserved
        except BaseException:
            self.spent_tokens -= reserved
            raise
        self.spent_tokens += reply.prompt_tokens + reply.completion_tokens - reserved
        return reply

    def close(self) -> None:
        """Close the connections."""
        line, self._line = self._line, None
        if line and line.loop.is_running():
            line.loop.create_task(line.client.aclose())

    def _present_line(self) -> _Line:
        """Connections and locks of the running loop: an endpoint may be used from one loop after another."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line.loop is not loop:
            section = self._section
            limits = httpx.Limits(max_connections=section.concurrent, max_keepalive_connections=section.concurrent)
            client = httpx.AsyncClient(timeout=section.timeout_s, limits=limits, follow_redirects=False)
            places = asyncio.Semaphore(section.concurrent)
            self._line = _Line(loop, client, places, PerMinute(section.per_minute, loop.time))
        return self._line

    async def _persistently(self, line: _Line, body: bytes, choices: Sequence[str]) -> Reply:
        """Ask until there is an answer, or no tries are left."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(self._section.retries + 1),
            wait=_pause_s,
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        try:
            return await tries(self._once, line, body, choices)
        except _Again as last:
            raise last.error from None

    async def _once(self, line: _Line, body: bytes, choices: Sequence[str]) -> Reply:
        await line.turns.turn()
        limit = self._section.timeout_s
        try:
            async with (
                asyncio.timeout(limit),
                line.client.stream("POST", self._url, content=body, headers=self._headers()) as r,
            ):
                data = await self._bounded(r)
        except (TimeoutError, httpx.TimeoutException):
            raise _Again(TimeoutError(f"{self.name}: no answer from {self._url} within {limit:g} s")) from None
        except httpx.TransportError as error:
            text = self._clean(f"{type(error).__name__}: {error}")
            raise _Again(ConnectionError(f"{self.name}: {self._url}: {text}")) from None
        if r.status_code in AGAIN:
            self._refuse_long_waits(r)
            raise _Again(ConnectionError(self._said(r, data)), _retry_after_s(r))
        if r.status_code in (401, 403):
            key = f"the key in {self._section.key_env}" if self._section.key_env else "a request without key_env"
            raise ConnectionError(f"{self.name}: {self._url} refuses {key} (status {r.status_code})")
        if r.status_code == 413 or (r.status_code in (400, 422) and TOO_LONG.search(data)):
            raise TooLong(self._said(r, data))
        if r.status_code != 200:
            raise ValueError(self._said(r, data))
        return self._read(data, body, choices)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._section.key_env:
            headers["Authorization"] = f"Bearer {self._key()}"
        return headers

    def _key(self) -> str:
        return os.environ.get(self._section.key_env, "").strip()

    async def _bounded(self, response: httpx.Response) -> bytes:
        """The body, read as it comes. Raises ValueError where it is packed or too large, without reading on."""
        packing = response.headers.get("Content-Encoding", "identity")
        if packing != "identity":
            raise ValueError(f"{self.name}: the answer is packed ({self._clean(packing)}), which was not asked for")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > LARGEST_BODY:
                raise ValueError(f"{self.name}: an answer of more than {LARGEST_BODY} bytes; the rest was not read")
        return bytes(data)

    def _read(self, data: bytes, body: bytes, choices: Sequence[str]) -> Reply:
        try:
            reply = completion.read(data, choices)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}; the answer begins {self._excerpt(data)}") from None
        if not reply.prompt_tokens:
            asked, answered = len(body) // BYTES_PER_TOKEN, len(reply.text)
            reply = replace(reply, prompt_tokens=asked, completion_tokens=answered)
        return replace(reply, text=self._clean(reply.text))

    def _refuse_long_waits(self, response: httpx.Response) -> None:
        after_s = _retry_after_s(response)
        if after_s is not None and after_s > LONGEST_WAIT_S:
            raise ConnectionError(f"{self.name}: {self._url} wants to be left alone for {after_s:.0f} s")

    def _said(self, response: httpx.Response, data: bytes) -> str:
        return f"{self.name}: {self._url} answered {response.status_code}: {self._excerpt(data)}"

    def _excerpt(self, data: bytes) -> str:
        return repr(self._clean(data[:4096].decode("utf-8", "replace"))[:LONGEST_EXCERPT])

    def _clean(self, text: str) -> str:
        """Text that came from outside, without our key."""
        key = self._key() if self._section.key_env else ""
        return text.replace(key, "(the key)") if key else text


def endpoint_problem(endpoint: str) -> str | None:
    """What is wrong with an endpoint's URL, or None."""
    if any(mark in endpoint for mark in "@?#"):  # nothing of it is repeated: it may hold a secret
        return "(not shown): a URL with a user name, query or fragment; a key goes into the variable that key_env names"
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        return f"{endpoint!r}: {error}"
    if url.scheme not in ("http", "https") or not url.host:
        return f"{endpoint!r}: wanted http://HOST:PORT/v1 or https://..."
    return None


def key_problem(variable: str) -> str | None:
    """What is wrong with the key in an environment variable, or None. The key itself is in no message."""
    key = os.environ.get(variable, "").strip()
    if not key:
        return f"environment variable {variable} is not set"
    if not key.isascii() or not key.isprintable() or " " in key:
        return f"environment variable {variable} does not hold a key: it has spaces, or other than printable ASCII"
    return None


def _pause_s(state: RetryCallState) -> float:
    """What the server asked for, or twice as long each time; with full jitter on top, so that workers part ways."""
    error = state.outcome.exception() if state.outcome else None
    after_s = error.after_s if isinstance(error, _Again) else None
    jitter = random.uniform(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (state.attempt_number - 1)))
    return jitter if after_s is None else after_s + min(jitter, FIRST_PAUSE_S)


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds of a Retry-After header, which has seconds or a date; None where it has neither."""
    text = response.headers.get("Retry-After", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
