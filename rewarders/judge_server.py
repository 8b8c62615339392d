"""The simulated judge behind a real server that speaks OpenAI's protocol, to try judging rewarders without a model.

    python -m rewarders.judge_server --port 8399 --false-accept 0.1 --position-bias 0.2

    [[rewarders.judges]]
    name = "simulated"
    model = "simulator"
    endpoint = "http://127.0.0.1:8399/v1"

It listens on this host only. With `--key-env NAME` requests need the key that this variable holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import click
from aiohttp import web

from rewarders.chat import Reply
from rewarders.endpoint import key_problem
from rewarders.judge_simulator import Faults, JudgeSimulator

HOST = "127.0.0.1"
LARGEST_REQUEST = 4 << 20
SPELLINGS = (("{}", 0.7), (" {}", 0.2), ("UPPER", 0.1))
"""How a tokenizer splits the probability of a word over its spellings."""


def application(judge: JudgeSimulator, key: str = "") -> web.Application:
    """`POST /v1/chat/completions` and `GET /v1/models` for a judge; with `key`, for those who send it."""

    async def complete(request: web.Request) -> web.Response:
        sent = request.headers.get("Authorization", "")
        if key and not hmac.compare_digest(sent.encode(), f"Bearer {key}".encode()):
            return _problem(401, "wrong key")
        try:
            asked = await request.json()
            messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in asked["messages"]]
            reply = await judge.ask(messages, max_tokens=int(asked["max_tokens"]), choices=("yes", "no"))
        except (ValueError, KeyError, TypeError) as error:
            return _problem(400, f"{type(error).__name__}: {error}")
        return web.json_response(_completion(asked.get("model", ""), reply, bool(asked.get("logprobs"))))

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "simulator", "object": "model"}]})

    made = web.Application(client_max_size=LARGEST_REQUEST)
    made.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    return made


@contextlib.contextmanager
def serving(made: web.Application, port: int = 0) -> Iterator[str]:
    """The base URL of the application, served from a thread while the block lasts; port 0 takes a free one."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), list[int | BaseException]()
    ending = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(made, access_log=None, shutdown_timeout=1.0)
        try:
            await runner.setup()
            site = web.TCPSite(runner, HOST, port)
            await site.start()
            found.append(runner.addresses[0][1])
            ready.set()
            await ending.wait()
        except BaseException as error:
            found.append(error)
            raise
        finally:
            ready.set()
            await runner.cleanup()

    thread = threading.Thread(target=lambda: _to_the_end(loop, serve()), name="judge-server", daemon=True)
    thread.start()
    ready.wait()
    if isinstance(found[0], BaseException):
        raise found[0]
    try:
        yield f"http://{HOST}:{found[0]}/v1"
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()


def _to_the_end(loop: asyncio.AbstractEventLoop, work: Any) -> None:
    try:
        with contextlib.suppress(OSError):  # told to whoever waits for the server
            loop.run_until_complete(work)
    finally:
        loop.close()


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": {"message": text}}, status=status)


def _completion(model: str, reply: Reply, with_logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": "stop",
    }
    if with_logprobs:
        choice["logprobs"] = {"content": [_position(reply.text, reply.choices)]}
    usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    return {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}


def _position(text: str, probs: Mapping[str, float]) -> dict[str, Any]:
    """The first token, with each word's probability over its spellings; the text's own where it is no such word."""
    found = [(spelling, prob * share) for word, prob in probs.items() for spelling, share in _spelled(word)]
    likely = sorted(((token, prob) for token, prob in found if prob > 0), key=lambda entry: -entry[1])
    top = [{"token": token, "logprob": math.log(prob)} for token, prob in likely or [(text.split(maxsplit=1)[0], 1.0)]]
    return {**top[0], "top_logprobs": top}


def _spelled(word: str) -> list[tuple[str, float]]:
    return [(word.upper() if form == "UPPER" else form.format(word.title()), share) for form, share in SPELLINGS]


@click.command(epilog="Example: python -m rewarders.judge_server --port 8399 --false-accept 0.1")
@click.option("--port", type=click.IntRange(0, 65535), default=8399, show_default=True, help="0 takes a free one.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--key-env", default="", help="Environment variable with the key that requests need.")
@click.option("--false-accept", type=float, default=0.0, help="P(yes | wrong)")
@click.option("--false-reject", type=float, default=0.0, help="P(no | right)")
@click.option("--flip", type=float, default=0.0, help="P(the worse of two is preferred)")
@click.option("--position-bias", type=float, default=0.0, help="P(the first of two is preferred without looking)")
@click.option("--length-bias", type=float, default=0.0, help="added to P(yes) per doubling of the length")
@click.option("--style-bias", type=float, default=0.0, help="added to P(yes) for headings, lists, bold type, code")
@click.option("--abstention", type=float, default=0.0, help="P(neither yes nor no)")
@click.option("--confidence", type=float, default=1.0, help="probability of the word that it says")
@click.option("--latency-s", type=float, default=0.0, help="seconds before each answer")
@click.option("--key", "keys", multiple=True, help="A text that makes any response accepted; repeatable.")
def main(port: int, seed: int, key_env: str, keys: tuple[str, ...], **rates: float) -> None:
    """Serve a simulated judge until interrupted."""
    if key_env and (problem := key_problem(key_env)):
        raise click.UsageError(problem)
    try:
        judge = JudgeSimulator(Faults(keys=keys, **rates), seed=seed)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts it in the background has it ignored
    made = application(judge, os.environ[key_env].strip() if key_env else "")
    with serving(made, port) as url, contextlib.suppress(KeyboardInterrupt):
        click.echo(json.dumps({"endpoint": url, "model": "simulator"}))
        threading.Event().wait()


if __name__ == "__main__":
    main()
