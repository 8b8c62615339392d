"""Programs judged by tests: right and wrong ones, and all that a program may try instead of being right."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import string
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarders import sandbox as module
from rewarders.code import Code, last_program
from rewarders.process import ChildDied, ChildTimeout
from rewarders.sandbox import Way
from rewarders.worker import RewardWorker
from swarm.config import Spec
from swarm.types import Status, Verdict

QUICK = {"timeout_s": 30.0, "test_s": 10.0, "cpu_s": 1, "output_kb": 256, "parallel": 2}
HASTY = QUICK | {"timeout_s": 1.2, "test_s": 0.5}
"""For programs that wait."""
ASSERTS = ["assert f(2) == 4", "assert f(3) == 9", "assert f(-1) == 1"]
DOUBLES = [{"input": "2\n", "output": "4\n"}, {"input": "21", "output": "42"}]
RIGHT = "def f(x):\n    return x * x"
RIGHT_PRINTS = "print(int(input()) * 2)"


def fenced(program: str) -> str:
    return f"Here it is:\n```python\n{program}\n```\nDone."


@pytest.fixture(scope="module")
def code() -> Iterator[Code]:
    made = Code(**QUICK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[Code]:
    made = Code(**HASTY)
    yield made
    made.close()


def judge(code: Code, make_group: Any, programs: list[str], tests: Any = ASSERTS, **task: Any) -> list[Verdict]:
    group = make_group([fenced(p) for p in programs], task={"tests": tests} | task)
    return list(asyncio.run(code.judge(group)))


def test_programs_are_judged_by_what_they_print(code, make_group) -> None:
    programs = [RIGHT_PRINTS, "print(4)", "print('4 ')\nprint()", "print(int(input()) * 2.0)", "pass"]
    verdicts = judge(code, make_group, programs, DOUBLES)
    assert [v.value for v in verdicts] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert [dict(v.parts) for v in verdicts[:3]] == [
        {"test 1": 1.0, "test 2": 1.0}, {"test 1": 1.0, "test 2": 0.0}, {"test 1": 1.0, "test 2": 0.0},
    ]  # fmt: skip
    assert verdicts[1].cause == "test 2: another output"


def test_programs_are_judged_by_what_they_answer(code, make_group) -> None:
    programs = [RIGHT, "def f(x): return 4", "def f(x): return str(x * x)", "def g(x): return x", "def f(x): 1 / 0"]
    verdicts = judge(code, make_group, programs)
    assert [v.value for v in verdicts] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert [v.parts["test 1"] for v in verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert "NameError" in verdicts[3].cause
    assert "ZeroDivisionError" in verdicts[4].cause


def test_humaneval_and_calls_are_judged(code, make_group) -> None:
    script = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 0.25) < 1e-9\n"
    verdicts = judge(code, make_group, [RIGHT, "def f(x): return 4"], script, entry_point="f")
    assert [v.value for v in verdicts] == [1.0, 0.0]
    calls = {"fn_name": "Solution().f", "inputs": [[1, [2]], [0, []]], "outputs": [[1, 2], [0]]}
    method = "class Solution:\n    def f(self, a, b):\n        return (a, *b)"
    assert judge(code, make_group, [method], calls)[0].value == 1.0


@pytest.mark.parametrize(("reward", "values"), [("all", [1, 0, 0]), ("share", [1, 1 / 3, 0]), ("verpo", None)])
def test_the_reward_is_all_a_share_or_weighed_by_difficulty(make_group, reward, values) -> None:
    made = Code(**QUICK, reward=reward)
    verdicts = judge(made, make_group, [RIGHT, "def f(x): return 4", "def f(x): return 5"])
    made.close()
    found = [v.value for v in verdicts]
    if values is None:  # passes of the tests: 2, 1, 1 of 3; weights 0.4, 0.6, 0.6; half of it for passing all
        values = [1, 0.5 * 0.4 / 1.6, 0]
    assert found == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```\n```\nb\n```", "b"),
        ("```py\na\nb\n```\n```text\nout\n```", "a\nb"),
        ("~~~python3\na\n```\n~~~", "a\n```"),
        ("````python\n```\na\n````", "```\na"),
        ("   ```Python title\r\n a\n  ```  ", " a"),
        ("```python\na", None),
        ("```python\na\n```\n```python\nb", "a"),
        ("no program", None),
        ("", None),
        ("``` inline ``` text", None),
        ("```python\n```", ""),
    ],
)
def test_the_program_is_the_last_closed_block(text, program) -> None:
    assert last_program(text) == program


@given(st.text(alphabet="`~ \npython1", max_size=60))
def test_any_text_has_a_program_or_none(text) -> None:
    found = last_program(text)
    assert found is None or found in text.replace("\r", "")


def test_without_a_program_the_value_is_0_and_the_whole_text_may_be_one(code, make_group) -> None:
    group = make_group([RIGHT, "", "```python\n```"], task={"tests": ASSERTS})
    verdicts = asyncio.run(code.judge(group))
    assert [(v.status, v.value, v.cause) for v in verdicts] == [(Status.SCORED, 0.0, "no program found")] * 3
    assert dict(verdicts[0].parts) == dict.fromkeys(("test 1", "test 2", "test 3"), 0.0)
    whole = Code(**QUICK, program="whole")
    assert asyncio.run(whole.judge(group))[0].value == 1.0
    whole.close()


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ({}, "has no 'tests'"),
        ({"tests": []}, "wanted a list"),
        ({"tests": ["assert f(1) == g(1)"]}, "cannot be judged"),
    ],
)
def test_tests_that_cannot_be_judged_are_an_abstention_with_its_cause(code, make_group, task, why) -> None:
    verdicts = asyncio.run(code.judge(make_group([fenced(RIGHT)] * 2, task=task)))
    assert [v.status for v in verdicts] == [Status.ABSTAINED] * 2
    assert why in verdicts[0].cause


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("program", "half"),
        ("reward", "most"),
        ("all_weight", 2.0),
        ("timeout_s", 0),
        ("test_s", -1),
        ("parallel", 0),
        ("cpu_s", 0),
        ("memory_mb", 1),
        ("processes", 0),
        ("output_kb", 0),
    ],
)
def test_bad_options_are_refused_by_name(option, value) -> None:
    with pytest.raises(ValueError, match=option):
        Code(**{option: value})


EQUAL_TO_ALL = """
class Yes(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
    def __sub__(self, other): return 0
    __rsub__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda self, other: True
    def __repr__(self): return "4"
    def __instancecheck__(self, other): return True
def f(x): return Yes()
"""
FRAME_WALK = """
import sys, gc
def f(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_globals, frame.f_locals):
            for name, value in list(space.items()):
                if isinstance(value, dict):
                    value.update({"passed": True, "result": 1, "ok": 1, "value": 1.0})
                if isinstance(value, list):
                    value[:] = [True] * len(value)
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) is list and thing and all(isinstance(t, (bool, int)) for t in thing):
            thing[:] = [True] * len(thing)
    return True
"""
PATCHED = """
import builtins, sys, os, json
class Always:
    def __eq__(self, other): return True
for name in ("bool", "abs", "eval", "isinstance", "compile", "exec", "repr", "str"):
    setattr(builtins, name, lambda *a, **k: True)
for module in list(sys.modules.values()):
    for name in list(vars(module)):
        if name in ("encoded", "quoted", "perform", "same", "dumps", "loads"):
            setattr(module, name, lambda *a, **k: '["tuple", [true]]')
def f(x): return Always()
"""
FORGED = """
import os, sys
told = b'{"value": 1.0}\\nready\\nended 0 0.01\\n["tuple", [true]]\\npassed\\n{"passed": true}\\n1\\n'
for fd in range(64):
    try: os.write(fd, told)
    except OSError: pass
"""
ATTACKS = {
    "permissive equality": EQUAL_TO_ALL,
    "frame walk": FRAME_WALK,
    "patched builtins": PATCHED,
    "forged results": FORGED,
    "forged results and out": FORGED + "os._exit(0)",
    "forged results in a call": FORGED.replace("\nfor", "\ndef f(x):\n  for", 1).replace("\n    ", "\n      ")
    + "\n  os._exit(0)",
    "sys.exit": "import sys; sys.exit(0)",
    "sys.exit in a call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "os._exit in a call": "import os\ndef f(x): os._exit(0)",
    "exit without an end": "import atexit, os\natexit.register(os._exit, 0)",
    "no assert": "import sys\nsys.flags.__class__\n__debug__\ndef f(x): return None",
    "raising what is no error": "class E(BaseException): pass\ndef f(x): raise E",
    "nan": "def f(x): return float('nan')",
    "inf": "def f(x): return float('inf')",
    "endless answer": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "deep answer": "def f(x):\n    a = []\n    for _ in range(500): a = [a]\n    return a",
    "big answer": "def f(x): return 'x' * 10**8",
    "big number": "def f(x): return 10 ** 10**5",
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb in a call": "import os\ndef f(x):\n    while True: os.fork()",
    "10 GB of output": "import os\nwhile True: os.write(1, b'x' * 10**6)",
    "10 GB of errors": "import os\nwhile True: os.write(2, b'x' * 10**6)",
    "10 GB of memory": "x = bytearray(10 * 2**30)",
    "memory in pieces": "x = []\nwhile True: x.append(bytearray(10**7))",
    "sleeps for ever": "import time\ntime.sleep(10**6)",
    "sleeps for ever in a call": "import time\ndef f(x): time.sleep(10**6)",
    "spins for ever": "while True: pass",
    "spins deaf": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "stops": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "fills the disk": "for i in range(10**6): open(str(i), 'w').write('x' * 2**20)",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(0.2,)).start()",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "syntax": "def f(x) return",
    "nul": "def f(x):\0 return 4",
    "surrogate": "# \ud800",
}
WAITING = ("sleeps for ever", "sleeps for ever in a call", "stops")


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_earns_a_reward_or_becomes_a_failure_of_ours(code, hasty, make_group, attack) -> None:
    """Both styles of tests at once: asserts where nothing trivial is right, and output."""
    for tests in (["assert f(2) == 4"], [{"input": "2", "output": "4"}]):
        for _ in range(10):  # what had to wait for a processor is a timeout, not a 0: asked again, as a run does
            [verdict] = judge(hasty if attack in WAITING else code, make_group, [ATTACKS[attack]], tests)
            if "too busy here" not in verdict.cause:
                break
        assert (verdict.status, verdict.value) == (Status.SCORED, 0.0), verdict
        assert not any(verdict.parts.values()), verdict
        assert verdict.cause.startswith("test 1: ")
        verdict.cause.encode()
    assert judge(code, make_group, [RIGHT])[0].value == 1.0


@pytest.mark.parametrize("check", ["assert f(2)", "assert not g(2)", "assert f(2) is True", "assert f(2) == True"])
def test_no_object_of_the_programs_decides_a_truth(code, make_group, check) -> None:
    for attack in (EQUAL_TO_ALL.replace("__bool__(self): return True", "__bool__(self): return 7"), FORGED):
        assert judge(code, make_group, [attack], [check])[0].value == 0.0


def test_e13_what_it_tries_outside_does_not_happen(code, make_group, tmp_path) -> None:
    """Network, system files, killing us, reading the tests, writing the reward, daemons: SCORED, 0, and no harm."""
    if not module.find_way().bubblewrap:
        pytest.skip(module.find_way().lacks)
    reward, answers = tmp_path / "reward.json", tmp_path / "tests.json"
    answers.write_text("[4, 9]")
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        tries = [
            f"import urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:{port}/').read().decode())",
            f"import socket\nsocket.create_connection(('127.0.0.1', {port})).send(b'stolen')",
            "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            (
                "import os\nfor p in ('/usr/lib/x', '/etc/passwd', '/lib/x', '/x', os.__file__):\n"
                "    try: open(p, 'w').write('x')\n    except OSError: pass\nopen('/etc/shadow').read()"
            ),
            (
                f"import os, signal\nfor p in ({os.getpid()}, {os.getppid()}, os.getppid(), 1, -1):\n"
                "    try: os.kill(p, signal.SIGKILL)\n    except OSError: pass\n"
            ),
            f"print(eval(open({str(answers)!r}).read())[0])",
            f"open({str(reward)!r}, 'w').write('1.0')",
            "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass",
            "import ctypes\nc = ctypes.CDLL(None)\nc.ptrace(16, 1, 0, 0)\nc.mount(b'none', b'/', b'tmpfs', 0, 0)",
            "import os\nos.chroot('/')",
            "import gc\nprint([o for o in gc.get_objects() if '4' in str(o)][:0] or open('/proc/1/environ').read())",
        ]
        verdicts = judge(code, make_group, tries, [{"input": "2", "output": "4"}])
        assert [(v.status, v.value) for v in verdicts] == [(Status.SCORED, 0.0)] * len(tries), verdicts
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not reward.exists()
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= before
    assert judge(code, make_group, [RIGHT_PRINTS], DOUBLES)[0].value == 1.0


def test_what_a_program_says_of_itself_does_not_steer_a_terminal(code, make_group) -> None:
    [verdict] = judge(code, make_group, ["raise Exception('\\x1b[2J\\x9b\\u202edone')"])
    assert verdict.value == 0.0
    assert verdict.cause.endswith(r"Exception: \x1b[2J\x9b\u202edone")


def test_random_garbage_scores_0_and_breaks_nothing(code, make_group) -> None:
    dice = random.Random(0)
    letters = string.printable + "é\u2028\ud800\0"
    garbage = ["".join(dice.choices(letters, k=dice.randrange(1, 200))) for _ in range(24)]
    words = [
        "def f(x):",
        "return",
        "x",
        "(",
        ")",
        "\n",
        "    ",
        "while True:",
        "import os",
        "lambda",
        "=",
        "4",
        "yield",
    ]
    garbage += [" ".join(dice.choices(words, k=dice.randrange(1, 30))) for _ in range(24)]
    verdicts = judge(code, make_group, [*garbage, RIGHT])
    assert [(v.status, v.value) for v in verdicts] == [(Status.SCORED, 0.0)] * len(garbage) + [(Status.SCORED, 1.0)]


@pytest.mark.parametrize(("failure", "status"), [(ChildDied, Status.ERROR), (ChildTimeout, Status.TIMEOUT)])
def test_a_sandbox_that_fails_is_no_0(make_group, monkeypatch, failure, status) -> None:
    def fail() -> Way:
        raise failure("no sandbox today")

    monkeypatch.setattr(module, "find_way", fail)
    made = Code(**QUICK)
    verdicts = judge(made, make_group, [RIGHT, "1 / 0"])
    made.close()
    assert [(v.status, v.value, v.cause) for v in verdicts] == [(status, None, "no sandbox today")] * 2


def test_one_killed_sandbox_costs_no_verdict(make_group) -> None:
    """The operator, or the kernel without memory, kills one from outside: the worker asks again."""
    module.find_way()
    worker = RewardWorker([Spec(name="code", options=QUICK | {"parallel": 1})], timeout_s=5.0, retries=1)
    program = "import time\ntime.sleep(0.5)\n" + RIGHT
    group = make_group([fenced(program), fenced(RIGHT), fenced("def f(x): 0")], task={"tests": ASSERTS[:1]})

    async def scored() -> Any:
        task = asyncio.create_task(worker.score(group))
        await asyncio.to_thread(_kill_one)
        return await task

    try:
        found = asyncio.run(scored())
    finally:
        worker.close()
    assert [r.verdicts[0].value for r in found.rollouts] == [1.0, 1.0, 0.0]
    assert worker.counts()["code"]["retried"] == 1
    assert worker.usage().cpu_s > 0


def _kill_one() -> None:
    """The first process within a sandbox; other tests may have left children of their own."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process().children():
                if len(child.children(recursive=True)) >= 2:
                    os.kill(child.pid, signal.SIGKILL)
                    return
        time.sleep(0.005)
    raise TimeoutError("no sandbox to kill")


AGAIN = [
    "permissive equality",
    "frame walk",
    "forged results",
    "os._exit",
    "spins for ever",
    "sleeps for ever",
    "stops",
]
AGAIN += ["10 GB of output", "10 GB of memory", "crash"]


@pytest.mark.parametrize("attack", AGAIN)
def test_without_bubblewrap_these_still_earn_nothing(make_group, monkeypatch, attack) -> None:
    monkeypatch.setattr(module, "find_way", lambda: Way("", lacks="plain, for a test"))
    made = Code(**(HASTY | {"test_s": 1.0} if attack in WAITING else QUICK))
    verdicts = judge(made, make_group, [ATTACKS[attack], RIGHT], ["assert f(2) == 4"])
    made.close()
    assert [(v.status, v.value) for v in verdicts] == [(Status.SCORED, 0.0), (Status.SCORED, 1.0)]


def test_importing_it_loads_nothing_heavy() -> None:
    source = Path(module.__file__).with_name("child_sandbox.py").read_text()
    imports = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imports == {"__future__", "marshal", "os", "resource", "signal", "sys", "_json"}
