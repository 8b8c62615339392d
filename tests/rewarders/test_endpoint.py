"""An endpoint that is slow, broken or hostile is a failure that says so: never a number, never the key."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import traceback
from email.utils import formatdate
from time import time
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders import endpoint
from rewarders.chat import BudgetSpent, ChatModel, Reply
from rewarders.completion import read
from rewarders.endpoint import LARGEST_BODY, Endpoint, PerMinute, endpoint_problem
from rewarders.rubric import Rubric
from rewarders.yes_no import YesNo
from swarm.config import JudgeSection
from swarm.types import Status
from tests.rewarders.rude_server import Handle, completion, head, rude, saying

KEY = "sk-test-4f1d7b0c9a8e"
ASKED = [{"role": "user", "content": "Well?"}]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.001)


def section(url: str, **settings: Any) -> JudgeSection:
    return JudgeSection(**{"name": "j", "model": "m", "endpoint": url, "timeout_s": 5.0, "retries": 0} | settings)


async def asked(handle: Handle, choices: tuple[str, ...] = ("yes", "no"), **settings: Any) -> Reply:
    async with rude(handle) as url:
        return await Endpoint(section(url, **settings)).ask(ASKED, max_tokens=4, choices=choices)


async def stall(_: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(head(length=10_000))
    for _ in range(10_000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def hang_up(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(head(length=1000) + b'{"choices": [')


async def nothing(_: bytes, writer: asyncio.StreamWriter) -> None:
    pass


HALF = completion()[:25]
BAD: dict[str, tuple[Handle, type[Exception], str, dict[str, Any]]] = {
    "500": (saying("<h1>oops</h1>", "500 Internal Server Error"), ConnectionError, "answered 500: '<h1>oops", {}),
    "html": (saying("<html>Sign in</html>"), ValueError, "not a chat completion: .*begins '<html>Sign in", {}),
    "half a JSON": (saying(HALF), ValueError, "not a chat completion: JSON: .*EOF", {}),
    "cut off": (hang_up, ConnectionError, "RemoteProtocolError", {}),
    "nothing at all": (nothing, ConnectionError, "disconnected", {}),
    "stall": (stall, TimeoutError, "no answer from .* within 0.2 s", {"timeout_s": 0.2}),
    "drip": (drip, TimeoutError, "within 0.3 s", {"timeout_s": 0.3}),
    "packed": (saying(b"\x1f\x8b", Content_Encoding="gzip"), ValueError, "packed", {}),
    "redirect": (saying("", "302 Found", Location="http://127.0.0.1:1/v1"), ValueError, "answered 302", {}),
    "401": (saying("no", "401 Unauthorized"), ConnectionError, "refuses a request without key_env", {}),
    "400": (saying("no logprobs here", "400 Bad Request"), ValueError, "answered 400: 'no logprobs here'", {}),
    "no choices": (saying('{"choices": []}'), ValueError, "choices: List should have at least 1", {}),
    "null": (saying("null"), ValueError, "not a chat completion", {}),
    "no text": (saying(completion().replace('"Yes"', "null")), ValueError, "choices.0.message.content", {}),
    "a number for a text": (saying(completion().replace('"Yes"', "1.0")), ValueError, "valid string", {}),
    "nan": (saying(completion(top=[("Yes", math.nan)])), ValueError, "choices.0.logprobs", {}),
    "log-probability above 0": (saying(completion(top=[("Yes", 3.0)])), ValueError, "above 0", {}),
    "probabilities above 1": (saying(completion(top=[("Yes", 0.0), (" yes", -0.1)])), ValueError, "add up to", {}),
    "nested": (saying("[" * 500_000), ValueError, "recursion limit|not a chat completion", {}),
    "no text at all": (saying(b"\xff\xfe\0"), ValueError, "not a chat completion", {}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_an_error_that_says_what_happened(name: str) -> None:
    handle, kind, said, settings = BAD[name]
    with pytest.raises(kind, match=said) as caught:
        asyncio.run(asked(handle, **settings))
    assert str(caught.value).startswith("j/m: ")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_never_a_number(name: str, make_group) -> None:
    handle, kind, _, settings = BAD[name]

    async def judged() -> list[Any]:
        async with rude(handle) as url:
            return await YesNo(judge=Endpoint(section(url, **settings))).judge(make_group(["4", "5"], "4"))

    for verdict in asyncio.run(judged()):
        assert verdict.status is (Status.TIMEOUT if kind is TimeoutError else Status.ERROR)
        assert verdict.value is None
        assert "j/m: " in verdict.cause


REFUSALS = [
    ("400 Bad Request", '{"error": {"message": "too many", "code": "context_length_exceeded"}}'),
    ("400 Bad Request", "This model's maximum context length is 2048 tokens. However, you requested 2100 tokens"),
    ("400 Bad Request", "The decoder prompt (length 3000) is longer than the maximum model length of 2048."),
    ("400 Bad Request", "the request exceeds the available context size"),
    ("413 Content Too Large", ""),
]


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_what_is_too_long_for_a_judge_is_an_abstention_with_its_cause(status: str, body: str, make_group) -> None:
    requests = 0

    async def refusing(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await saying(body, status)(request, writer)

    async def judged() -> list[Any]:
        async with rude(refusing) as url:
            judge = Endpoint(section(url, retries=3))
            found = list(await YesNo(judge=judge).judge(make_group(["4"], "4")))
            assert judge.spent_tokens == 0
            return found + list(await Rubric(judge=judge, criteria=["short"]).judge(make_group(["4"], "4")))

    for verdict in asyncio.run(judged()):
        assert verdict.status is Status.ABSTAINED
        assert f" answered {status.split(maxsplit=1)[0]}: " in verdict.cause
        assert body[:20] in verdict.cause
    assert requests == 2  # asking again would say the same


def test_an_endless_body_is_cut_off_early() -> None:
    sent = 0

    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(length=100 << 20))
        for _ in range(100 << 4):
            writer.write(b" " * (1 << 16))
            await writer.drain()
            sent += 1 << 16

    with pytest.raises(ValueError, match=f"more than {LARGEST_BODY} bytes"):
        asyncio.run(asked(endless))
    assert sent < 20 << 20  # what the sockets on the way take


def test_a_refused_connection_is_a_connection_error() -> None:
    async def gone() -> Reply:
        async with rude(nothing) as url:
            pass
        return await Endpoint(section(url)).ask(ASKED, max_tokens=4)

    with pytest.raises(ConnectionError, match="ConnectError"):
        asyncio.run(gone())


def test_probabilities_are_summed_over_spellings() -> None:
    top = [
        ("Yes", math.log(0.5)),
        (" yes", math.log(0.2)),
        ("YES", math.log(0.1)),
        ("**No", math.log(0.15)),
        ("Y", -9999),
    ]
    reply = asyncio.run(asked(saying(completion("Yes.", top))))
    assert reply.choices == pytest.approx({"yes": 0.8, "no": 0.15})
    assert reply.text == "Yes."


def test_blank_first_tokens_are_passed_over() -> None:
    plain = json.loads(completion("Yes", [("Yes", -0.1)]))
    blank = {"token": "\n", "logprob": -0.01, "top_logprobs": [{"token": "\n", "logprob": -0.01}]}
    plain["choices"][0]["logprobs"]["content"].insert(0, blank)
    reply = asyncio.run(asked(saying(json.dumps(plain))))
    assert reply.choices == pytest.approx({"yes": math.exp(-0.1), "no": 0.0})


def test_a_server_without_log_probabilities_gives_text_alone() -> None:
    reply = asyncio.run(asked(saying(completion("No"))))
    assert (reply.text, reply.choices) == ("No", {})
    assert reply.prompt_tokens > 0  # estimated, for the budget
    assert asyncio.run(asked(saying(completion("No", logprobs=None)))).choices == {}


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "logprobs", "top_logprobs", "token", "logprob"]),
                inner,
            )
        ),
    ).map(lambda value: json.dumps({"choices": [value]}).encode())
)
def test_no_body_is_more_than_a_reply_or_a_value_error(data: bytes) -> None:
    try:
        reply = read(data, ("yes", "no"))
    except ValueError:
        return
    assert isinstance(reply.text, str)
    assert all(0 <= prob <= 1 for prob in reply.choices.values())


# -- again ---------------------------------------------------------------------------------------------------------


def failing(times: int, status: str = "503 Service Unavailable", **headers: str) -> tuple[Handle, list[bytes]]:
    seen: list[bytes] = []

    async def handle(request: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(request)
        answer = saying("busy", status, **headers) if len(seen) <= times else saying(completion())
        await answer(request, writer)

    return handle, seen


def test_a_busy_server_is_asked_again() -> None:
    handle, seen = failing(2, Retry_After="0")
    assert asyncio.run(asked(handle, retries=2)).text == "Yes"
    assert len(seen) == 3
    assert len({request.partition(b"\r\n\r\n")[2] for request in seen}) == 1


def test_tries_end_with_the_last_failure() -> None:
    handle, seen = failing(9)
    with pytest.raises(ConnectionError, match="503: 'busy'"):
        asyncio.run(asked(handle, retries=2))
    assert len(seen) == 3


def test_what_will_not_get_better_is_not_asked_again() -> None:
    for status in ("400 Bad Request", "401 Unauthorized"):
        handle, seen = failing(9, status)
        with pytest.raises((ValueError, ConnectionError)):
            asyncio.run(asked(handle, retries=2))
        assert len(seen) == 1


def test_a_server_that_wants_an_hour_is_not_waited_for() -> None:
    handle, seen = failing(9, "429 Too Many Requests", Retry_After="3600")
    with pytest.raises(ConnectionError, match="left alone for 3600 s"):
        asyncio.run(asked(handle, retries=2))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("-3", 0.0), ("soon", None), ("", None), ("nan", None), ("inf", None)]
)
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    assert endpoint._retry_after_s(httpx.Response(503, headers={"Retry-After": header})) == seconds


def test_retry_after_may_be_a_date() -> None:
    response = httpx.Response(503, headers={"Retry-After": formatdate(time() + 30, usegmt=True)})
    assert endpoint._retry_after_s(response) == pytest.approx(30, abs=3)


def test_pauses_honour_the_server_and_grow_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.5)

    class State:
        def __init__(self, number: int, after_s: float | None) -> None:
            self.attempt_number = number
            error = endpoint._Again(ConnectionError(), after_s)
            self.outcome = type("Outcome", (), {"exception": lambda _: error})()

    def pauses(number: int, after_s: float | None = None) -> list[float]:
        return [endpoint._pause_s(State(number, after_s)) for _ in range(300)]  # type: ignore[arg-type]

    assert all(7.0 <= pause <= 7.5 for pause in pauses(4, 7.0))
    assert max(pauses(1)) <= 0.5 < max(pauses(4)) <= 4.0
    assert max(pauses(50)) <= endpoint.LONGEST_PAUSE_S
    assert len(set(pauses(2))) > 200


# -- limits --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.lists(st.floats(0, 40), min_size=1, max_size=12))
def test_no_minute_has_more_turns_than_its_limit(limit: int, gaps: list[float]) -> None:
    now, taken = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds > 0
        now += seconds

    async def all_turns() -> None:
        nonlocal now
        turns = PerMinute(limit, lambda: now, sleep)
        for gap in gaps:
            now += gap
            await turns.turn()
            taken.append(now)

    asyncio.run(all_turns())
    for i in range(len(taken) - limit):
        assert taken[i + limit] - taken[i] >= 60.0 - 1e-6


def test_no_more_requests_are_under_way_than_allowed() -> None:
    now = most = 0

    async def counting(request: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        await saying(completion())(request, writer)

    async def many() -> None:
        async with rude(counting) as url:
            model = Endpoint(section(url, concurrent=3))
            await asyncio.gather(*(model.ask(ASKED, max_tokens=4) for _ in range(12)))
            model.close()

    asyncio.run(many())
    assert most == 3


def test_a_spent_budget_is_refused_before_anything_is_sent() -> None:
    async def spend() -> Endpoint:
        usage = {"prompt_tokens": 90, "completion_tokens": 10}
        async with rude(saying(completion(usage=usage))) as url:
            model = Endpoint(section(url, budget_tokens=250))
            assert (await model.ask(ASKED, max_tokens=4)).prompt_tokens == 90
            await model.ask(ASKED, max_tokens=4)
            with pytest.raises(BudgetSpent, match="200 of budget_tokens = 250"):
                await model.ask(ASKED, max_tokens=40)
        return model

    assert asyncio.run(spend()).spent_tokens == 200


def test_a_failed_request_gives_back_what_it_had_reserved() -> None:
    async def fail() -> int:
        async with rude(saying("no", "500 Oops")) as url:
            model = Endpoint(section(url, budget_tokens=1000))
            with pytest.raises(ConnectionError):
                await model.ask(ASKED, max_tokens=4)
            return model.spent_tokens

    assert asyncio.run(fail()) == 0


# -- the key -------------------------------------------------------------------------------------------------------


def echo(status: str, text: str = "{}") -> Handle:
    async def handle(request: bytes, writer: asyncio.StreamWriter) -> None:
        [line] = [line for line in request.split(b"\r\n") if line.lower().startswith(b"authorization")]
        body = text.replace("{}", f"your key {line.decode()} is odd")
        await saying(body, status, X_Echo=line.decode())(request, writer)

    return handle


@pytest.mark.parametrize(
    "handle",
    [
        echo("500 Oops"),
        echo("401 No"),
        echo("400 No"),
        echo("200 OK"),
        echo("200 OK", completion("{}")),
        echo("302 Found"),
        hang_up,
    ],
)
def test_the_key_is_sent_and_appears_nowhere_else(handle, make_group, monkeypatch, caplog, capfd) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    sent: list[bytes] = []

    async def watching(request: bytes, writer: asyncio.StreamWriter) -> None:
        sent.append(request)
        await handle(request, writer)

    async def judged() -> list[str]:
        async with rude(watching) as url:
            model = Endpoint(section(url, key_env="TEST_JUDGE_KEY", retries=1))
            seen = [repr(model), str(vars(model)), model.name]
            seen += [repr(await YesNo(judge=model).judge(make_group(["4"], "4")))]
            try:
                seen.append(repr(await model.ask(ASKED, max_tokens=4, choices=("yes", "no"))))
            except (OSError, ValueError) as error:
                seen.append("".join(traceback.format_exception(error)))
            assert model._line is not None
            return [*seen, repr(model._line)]

    seen = asyncio.run(judged())
    assert all(f"Bearer {KEY}".encode() in request for request in sent)
    assert sent
    everything = "\n".join([*seen, caplog.text, *capfd.readouterr()])
    assert KEY not in everything
    assert KEY[-6:] not in everything


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "k\u00e9y", "line\nbreak"])
def test_a_key_that_is_none_is_refused_by_the_name_of_its_variable(value, monkeypatch) -> None:
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_JUDGE_KEY", value)
    with pytest.raises(ValueError, match="environment variable TEST_JUDGE_KEY") as caught:
        Endpoint(section("http://127.0.0.1:1/v1", key_env="TEST_JUDGE_KEY"))
    assert not value or not value.strip() or value not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "wanted http"),
        ("ftp://h/v1", "wanted http"),
        ("127.0.0.1:80", "wanted http"),
        ("http://h:x/v1", "Invalid port"),
        (f"http://me:{KEY}@h/v1", "with a user name, query or fragment"),
        (f"http://me:{KEY}@h:x/v1", "with a user name, query or fragment"),
        (f"me:{KEY}@h/v1", "with a user name, query or fragment"),
        (f"https://h/v1?key={KEY}", "with a user name, query or fragment"),
        (f"https://h/v1#{KEY}", "with a user name, query or fragment"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(url: str, said: str) -> None:
    problem = endpoint_problem(url)
    assert problem is not None
    assert said in problem
    assert KEY not in problem


def test_it_is_a_chat_model_and_serves_one_loop_after_another() -> None:
    async def once(url: str, model: Endpoint | None = None) -> Endpoint:
        model = model or Endpoint(section(url))
        assert (await model.ask(ASKED, max_tokens=4)).text == "Yes"
        return model

    async def first() -> Endpoint:
        async with rude(saying(completion())) as url:
            return await once(url)

    async def second(model: Endpoint) -> None:
        async with rude(saying(completion())) as url:
            model._url = url + "/chat/completions"
            await once(url, model)

    model = asyncio.run(first())
    assert isinstance(model, ChatModel)
    asyncio.run(second(model))
    model.close()
    model.close()
