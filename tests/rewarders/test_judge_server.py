"""The simulated judge as others meet it: a process with an address."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rewarders.chat import ChatModel
from rewarders.judge_server import application, serving
from rewarders.judge_simulator import Faults, JudgeSimulator

ROOT = Path(__file__).resolve().parents[2]
ASKED = {"model": "m", "max_tokens": 4, "logprobs": True}


def post(url: str, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/chat/completions", json=body, headers=headers)


def prompt(response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Reference answer:\n```\n4\n```\n\nResponse:\n```\n{response}\n```\n\n?"}]


def test_it_runs_as_a_command_and_answers_in_openais_form(gone) -> None:
    command = [sys.executable, "-m", "rewarders.judge_server", "--port", "0", "--confidence", "0.9"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = json.loads(server.stdout.readline())
            answer = post(line["endpoint"], ASKED | {"messages": prompt("it is 4")}).json()
            models = httpx.get(f"{line['endpoint']}/models").json()
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(60)
            finally:
                server.kill()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Yes"}
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert {entry["token"] for entry in top} == {"Yes", " Yes", "YES", "No", " No", "NO"}
    assert models["data"][0]["id"] == line["model"]
    assert server.returncode == 0


def test_equal_messages_get_equal_replies_and_the_seed_matters() -> None:
    faults = Faults(false_accept=0.5, false_reject=0.5)

    def replies(seed: int) -> list[str]:
        judge = JudgeSimulator(faults, seed=seed)
        assert isinstance(judge, ChatModel)
        return [asyncio.run(judge.ask(prompt(str(i)), max_tokens=4)).text for i in range(60)]

    assert replies(1) == replies(1) != replies(2)
    assert set(replies(1)) == {"Yes", "No"}


def test_a_wrong_key_and_a_request_that_is_none_are_refused() -> None:
    with serving(application(JudgeSimulator(), key="k1")) as url:
        assert post(url, ASKED | {"messages": prompt("4")}).status_code == 401
        assert post(url, ASKED | {"messages": prompt("4")}, Authorization="Bearer k1").status_code == 200
        for body in ({}, [], ASKED | {"messages": [{"role": "user", "content": "Hello?"}]}, ASKED | {"messages": 3}):
            assert post(url, body, Authorization="Bearer k1").status_code == 400


def test_a_port_in_use_is_an_error() -> None:
    with serving(application(JudgeSimulator())) as url:
        taken = httpx.URL(url).port
        assert taken
        with pytest.raises(OSError, match="in use"), serving(application(JudgeSimulator()), taken):
            pass


@pytest.mark.parametrize("wrong", [{"flip": 1.5}, {"confidence": 0.2}, {"latency_s": -1.0}, {"abstention": -0.1}])
def test_faults_that_are_no_probabilities_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Faults(**wrong)


def test_bad_options_end_the_command_with_one_line() -> None:
    for options in (["--flip", "2"], ["--key-env", "NO_SUCH_VARIABLE"]):
        command = [sys.executable, "-m", "rewarders.judge_server", "--port", "0", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 2
        assert "Error:" in done.stderr
        assert "Traceback" not in done.stderr
