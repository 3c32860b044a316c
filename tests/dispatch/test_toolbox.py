"""Tools that are Python functions: calls are carried out, and the conversation goes on."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import polars as pl
import pytest

from batchrun.dispatch.toolbox import Toolbox, load_functions
from batchrun.errors import JobError
from batchrun.job import Job
from batchrun.records import Completion, Ending, Tool, Usage
from tests.conftest import (
    DEADLINE_S,
    ROOT,
    batchrun,
    command,
    finish,
    start_batchrun,
    wait_for_line,
    wait_until,
)
from tests.support.provider import Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.provider import Call

    WriteJob = Callable[..., Path]

FORMATS = ("messages", "chat")
TOOLS = """
tools = [{ name = "lookup", description = "Look up.", input_schema = { type = "object" } }]
"""
MODULE = """
import time
from pathlib import Path

def lookup(key):
    with (Path(__file__).parent / "ran.txt").open("a") as log:
        log.write(f"{key}\\n")
    if key == "missing":
        raise KeyError(key)
    return {"value": key.upper()}
"""


def calls_tool(call: Call, *arguments: object, name: str = "lookup") -> Reply:
    """An answer that calls the tool once for each argument; 20 tokens in, 5 out."""
    model, number = call.json["model"], call.number
    if call.path.endswith("/messages"):
        blocks: list[dict[str, Any]] = [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "text", "text": ""},
        ]
        blocks += [
            {"type": "tool_use", "id": f"toolu_{number}_{n}", "name": name, "input": argument}
            for n, argument in enumerate(arguments)
        ]
        payload: dict[str, Any] = {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": blocks,
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 20, "output_tokens": 5},
        }
    else:
        calls = [
            {
                "id": f"call_{number}_{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(argument)},
            }
            for n, argument in enumerate(arguments)
        ]
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
        payload = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5},
        }
    return Reply(body=json.dumps(payload).encode())


def tool_results(call: Call) -> list[tuple[str, bool]]:
    """What the tools are reported to have given, and whether as errors, of the last turn."""
    messages = call.json["messages"]
    if call.path.endswith("/messages"):
        content = messages[-1]["content"]
        blocks = content if isinstance(content, list) else []
        return [(b["content"], b.get("is_error", False)) for b in blocks]
    results = [m["content"] for m in messages if m["role"] == "tool"]
    return [(text.removeprefix("Error: "), text.startswith("Error: ")) for text in results]


def asks_once(*arguments: object) -> Callable[[Call], Reply]:
    def decide(call: Call) -> Reply:
        results = tool_results(call)
        if results:
            return answer(call, f"it is {results}")
        return calls_tool(call, *arguments)

    return decide


@pytest.fixture
def write_tools_job(write_job: WriteJob, tmp_path: Path) -> WriteJob:
    (tmp_path / "my_tools.py").write_text(MODULE)

    def write(base_url: str, *, tools: str = "", request: str = "", **options: Any) -> Path:
        extra = f'[tools]\nmodule = "my_tools.py"\n{tools}'
        return write_job(base_url, request=TOOLS + request, extra=extra, **options)

    return write


def ran(folder: Path) -> list[str]:
    log = folder / "ran.txt"
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("wire_format", FORMATS)
def test_calls_are_carried_out_until_the_model_answers(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path, wire_format: str
) -> None:
    with serving(asks_once({"key": "a"}, {"key": "b"})) as provider:
        job = write_tools_job(provider.url, rows=3, wire_format=wire_format)
        code, _, error = batchrun("run", job)
        assert code == 0, error
        assert len(provider.calls) == 6
        assert batchrun("run", job)[0] == 0
        assert len(provider.calls) == 6
    found = results()
    expected = [('{"value":"A"}', False), ('{"value":"B"}', False)]
    assert found["response"].to_list() == [f"it is {expected}"] * 3
    assert sorted(ran(tmp_path)) == ["a"] * 3 + ["b"] * 3
    assert found["attempts"].to_list() == [2, 2, 2]
    assert found["input_tokens"].to_list() == [31] * 3  # of both turns
    assert found["output_tokens"].to_list() == [12] * 3
    assert [
        (call["name"], call["input"], call["output"]) for call in json.loads(found["tool_calls"][0])
    ] == [("lookup", {"key": "a"}, '{"value":"A"}'), ("lookup", {"key": "b"}, '{"value":"B"}')]
    usage = pl.read_parquet(tmp_path / "out" / "usage.parquet")
    assert usage.height == 6
    assert usage["error_type"].null_count() == 6


@pytest.mark.parametrize("wire_format", FORMATS)
def test_the_model_gets_its_turn_back_as_it_was(
    write_tools_job: WriteJob, wire_format: str
) -> None:
    with serving(asks_once({"key": "a"})) as provider:
        job = write_tools_job(
            provider.url, rows=1, wire_format=wire_format, request='tool_choice = "lookup"'
        )
        assert batchrun("run", job)[0] == 0
        first, second = (call.json for call in provider.calls)
    if wire_format == "messages":
        said = [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "tool_use", "id": "toolu_1_0", "name": "lookup", "input": {"key": "a"}},
        ]
        result = {"type": "tool_result", "tool_use_id": "toolu_1_0", "content": '{"value":"A"}'}
        expected: list[dict[str, Any]] = [
            {"role": "assistant", "content": said},
            {"role": "user", "content": [result]},
        ]
        assert (first["tool_choice"]["type"], second["tool_choice"]["type"]) == ("tool", "auto")
    else:
        function = {"name": "lookup", "arguments": '{"key": "a"}'}
        made = {"id": "call_1_0", "type": "function", "function": function}
        expected = [
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": "call_1_0", "content": '{"value":"A"}'},
        ]
        assert second["tool_choice"] == "auto"
    assert second["messages"] == first["messages"] + expected
    unchanged = {key for key in first if first[key] == second[key]}
    assert unchanged == set(first) - {"messages", "tool_choice"}


@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_tool_that_raises_is_told_to_the_model(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], wire_format: str
) -> None:
    with serving(asks_once({"key": "missing"}, {"wrong": 1}, "text")) as provider:
        job = write_tools_job(provider.url, rows=1, wire_format=wire_format)
        assert batchrun("run", job)[0] == 0
        errors = tool_results(provider.calls[-1])
    assert [is_error for _, is_error in errors] == [True, True, True]
    assert errors[0][0] == "KeyError: 'missing'"
    assert errors[1][0].startswith("TypeError: lookup() got an unexpected keyword argument")
    assert errors[2][0] == "the input is not a JSON object"
    assert [call["is_error"] for call in json.loads(results()["tool_calls"][0])] == [True] * 3


def test_a_model_that_never_answers_is_ended_by_max_turns_and_may_go_on_later(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        turns = len(call.json["messages"])
        return answer(call, "done") if turns >= 7 else calls_tool(call, {"key": f"k{turns}"})

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1, tools="max_turns = 2")
        assert batchrun("run", job)[0] == 4
        assert len(provider.calls) == 2
        row = results().row(0, named=True)
        assert (row["status"], row["error_type"], row["attempts"]) == ("errored", "max_turns", 2)
        assert "raise [tools] max_turns" in row["error_message"]
        assert [call["input"] for call in json.loads(row["tool_calls"])] == [
            {"key": "k1"},
            {"key": "k3"},
        ]
        assert batchrun("run", job)[0] == 3
        assert len(provider.calls) == 2
        assert batchrun("run", job, "--retry-errored", "--set", "tools.max_turns=9")[0] == 0
        assert len(provider.calls) == 4
    assert results()["response"].to_list() == ["done"]
    assert ran(tmp_path) == ["k1", "k3", "k5"]


def test_calls_that_were_cut_short_are_not_carried_out(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        reply = calls_tool(call, {"key": "a"})
        return Reply(body=reply.body.replace(b'"tool_use", "usage"', b'"max_tokens", "usage"'))

    with serving(decide) as provider:
        assert batchrun("run", write_tools_job(provider.url, rows=1))[0] == 0
    assert ran(tmp_path) == []
    assert results()["stop_reason"].to_list() == ["max_tokens"]


def test_only_the_last_answer_has_to_satisfy_the_schema(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        return answer(call, '{"n": 1}') if tool_results(call) else calls_tool(call, {"key": "a"})

    schema = 'json_schema = { type = "object", required = ["n"] }'
    with serving(decide) as provider:
        assert batchrun("run", write_tools_job(provider.url, rows=1, request=schema))[0] == 0
        assert len(provider.calls) == 2
    assert results()["response"].to_list() == ['{"n": 1}']


def test_what_was_asked_again_in_one_turn_does_not_count_in_the_next(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    """A cut answer is asked again once, in each turn."""

    def decide(call: Call) -> Reply:
        if call.number == 2:
            return calls_tool(call, {"key": "a"})
        if call.number == 4:
            return answer(call, '{"n": 1}')
        return Reply(body=answer(call, '{"n": ').body.replace(b'"end_turn"', b'"max_tokens"'))

    schema = 'json_schema = { type = "object", required = ["n"] }'
    with serving(decide) as provider:
        assert batchrun("run", write_tools_job(provider.url, rows=1, request=schema))[0] == 0
        assert len(provider.calls) == 4
    assert results()["response"].to_list() == ['{"n": 1}']


def test_a_failed_attempt_of_a_later_turn_does_not_begin_anew(
    write_tools_job: WriteJob, tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        if not tool_results(call):
            return calls_tool(call, {"key": "a"})
        return Reply(500, b"{}") if call.seen == 0 else answer(call)

    with serving(decide) as provider:
        assert batchrun("run", write_tools_job(provider.url, rows=1))[0] == 0
        assert [len(call.json["messages"]) for call in provider.calls] == [1, 3, 3]
    assert ran(tmp_path) == ["a"]


def test_a_conversation_goes_on_where_a_killed_process_left_it(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    """Killed while a tool runs, and killed while the answer to its result is under way."""
    (tmp_path / "my_tools.py").write_text(
        MODULE.replace(
            "    return",
            "    while (Path(__file__).parent / 'hold').exists(): time.sleep(0.01)\n    return",
        )
    )
    (tmp_path / "hold").touch()

    killed = threading.Event()

    def decide(call: Call) -> Reply:
        if not tool_results(call):
            return calls_tool(call, {"key": "a"})
        return answer(call, "done", until=killed)

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1)
        child = start_batchrun("run", job)
        wait_until(lambda: ran(tmp_path) == ["a"])
        child.kill()
        finish(child)
        (tmp_path / "hold").unlink()
        child = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) == 2, child)
        child.kill()
        finish(child)
        killed.set()
        assert batchrun("run", job)[0] == 0
        assert [len(call.json["messages"]) for call in provider.calls] == [1, 3, 3]
    assert ran(tmp_path) == ["a", "a"]  # the first had not been answered when it was killed
    row = results().row(0, named=True)
    assert (row["response"], row["attempts"]) == ("done", 3)
    assert json.loads(row["tool_calls"])[0]["output"] == '{"value":"A"}'


def test_a_turn_that_was_damaged_on_the_disk_is_not_sent_on(
    write_tools_job: WriteJob, tmp_path: Path
) -> None:
    killed = threading.Event()

    def decide(call: Call) -> Reply:
        if not tool_results(call):
            return calls_tool(call, {"key": "a"})
        return answer(call, "done", until=killed)

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1)
        child = start_batchrun("run", job)
        wait_until(lambda: len(provider.calls) == 2, child)
        child.kill()
        finish(child)
        killed.set()
        with closing(sqlite3.connect(tmp_path / "out" / "checkpoint.db")) as connection:
            connection.execute("UPDATE turns SET said = replace(said, 'hm', 'hn')")
            connection.commit()
        code, _, stderr = command("run", job)
        assert code == 5
        assert "the stored turn 1 is damaged: it does not match its checksum" in stderr
        assert len(provider.calls) == 2
        assert command("run", job, "--retry-errored")[0] == 0
        assert [len(call.json["messages"]) for call in provider.calls] == [1, 3, 1, 3]


def test_an_interrupted_tool_does_not_keep_the_command_from_ending(
    write_tools_job: WriteJob, tmp_path: Path
) -> None:
    (tmp_path / "my_tools.py").write_text(
        MODULE.replace("    return", "    time.sleep(600)\n    return")
    )
    with serving(asks_once({"key": "a"})) as provider:
        child = start_batchrun("run", write_tools_job(provider.url, rows=1))
        wait_until(lambda: ran(tmp_path) == ["a"])
        child.send_signal(signal.SIGTERM)
        wait_for_line(child, "stopping: interrupt again")
        child.send_signal(signal.SIGTERM)
        assert finish(child)[0] == 143
    with closing(sqlite3.connect(tmp_path / "out" / "checkpoint.db")) as db:
        assert db.execute("SELECT count(*), count(results) FROM turns").fetchone() == (1, 0)


@pytest.mark.parametrize("stream", ["true", "false"], ids=["streamed", "whole"])
@pytest.mark.parametrize("wire_format", FORMATS)
def test_the_sample_job_with_tools_can_be_rehearsed(
    tmp_path: Path, wire_format: str, stream: str
) -> None:
    job = ROOT / "jobs" / "shipping_quotes.toml"
    out = tmp_path / "out"
    to = ("--format", wire_format, "--output-dir", out, "--set", f"stream={stream}")
    code, _, error = batchrun("run", job, "--simulate", "--quiet", *to)
    assert code == 0, error
    found = pl.read_parquet(tmp_path / "out.simulated" / "results.parquet")
    assert found["attempts"].to_list() == [2] * 40
    calls = [json.loads(calls)[0] for calls in found["tool_calls"]]
    assert {call["name"] for call in calls} == {"shipping_cost"}
    good = [json.loads(call["output"]) for call in calls if not call.get("is_error")]
    assert good
    assert all(set(output) == {"eur", "country"} for output in good)


# What the job file may say


@pytest.mark.parametrize(
    ("tools", "asked", "message"),
    [
        ('module = "none.py"', TOOLS, "[tools] module: 'none.py' is not a Python file"),
        ('module = "rows.csv"', TOOLS, "[tools] module: 'rows.csv' is not a Python file"),
        ('module = "my_tools.py"', "", "[tools] module: there are no tools to run"),
        ("timeout_s = 3", TOOLS, "[tools] module: is missing"),
        ('module = "my_tools.py"\nmax_turns = 0', TOOLS, "[tools] max_turns: must be a finite"),
        ('module = "my_tools.py"\ntimeout_s = 0', TOOLS, "[tools] timeout_s: must be a finite"),
        ('module = "my_tools.py"\nmax_turn = 1', TOOLS, 'did you mean "max_turns"'),
    ],
    ids=["absent", "no-python", "no-tools", "no-module", "no-turns", "no-time", "unknown"],
)
def test_a_wrong_tools_section_is_named(
    write_job: WriteJob, tmp_path: Path, tools: str, asked: str, message: str
) -> None:
    (tmp_path / "my_tools.py").write_text(MODULE)
    job = write_job("http://127.0.0.1:9", request=asked, extra=f"[tools]\n{tools}")
    with pytest.raises(JobError) as error:
        Job.load(job)
    assert message in str(error.value)


def test_several_answers_and_tools_that_run_exclude_each_other(
    write_tools_job: WriteJob,
) -> None:
    job = write_tools_job("http://127.0.0.1:9", wire_format="chat", request="n = 2")
    with pytest.raises(JobError, match=r"\[request\] n must be 1"):
        Job.load(job)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("def other(): pass", "has no function lookup"),
        ("lookup = 5", "has no function lookup"),
        ("x = 1\nx / 0", "line 2 cannot be imported: ZeroDivisionError"),
        ("\n\ndef lookup(:", "line 3 cannot be imported: SyntaxError"),
        ("import no_such_module_here", "line 1 cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(7)", "cannot be imported: SystemExit: 7"),
    ],
    ids=["no-function", "no-callable", "raises", "syntax", "import", "exits"],
)
def test_a_wrong_module_ends_the_command_before_anything_is_sent(
    write_tools_job: WriteJob, tmp_path: Path, module: str, message: str
) -> None:
    with serving(answer) as provider:
        job = write_tools_job(provider.url)
        (tmp_path / "my_tools.py").write_text(module)
        code, _, error = batchrun("run", job)
        assert code == 2
        assert provider.calls == []
    assert message in error
    assert "Traceback" not in error


def test_a_module_finds_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("FACTOR = 3")
    module = tmp_path / "tools.py"
    module.write_text("def times(n):\n    from beside_it import FACTOR\n    return n * FACTOR")
    functions = load_functions(module, [Tool("times", input_schema={}), Tool("bash", vendor={})])
    assert functions["times"](2) == 6
    assert set(functions) == {"times"}


# What the calls give


def made(*calls: tuple[str, object]) -> str:
    return json.dumps(
        [{"id": f"c{n}", "name": name, "input": given} for n, (name, given) in enumerate(calls)]
    )


async def run(
    calls: str, timeout_s: float = DEADLINE_S, **functions: Callable[..., Any]
) -> list[tuple[str, bool]]:
    done = json.loads(await Toolbox(functions, timeout_s=timeout_s).run(calls))
    return [(call["output"], call.get("is_error", False)) for call in done]


@pytest.mark.anyio
async def test_text_goes_back_as_it_is_and_values_as_json() -> None:
    values = {"text": "plain", "none": None, "tuple": (1, 2), "set": {3}, "keys": {1: "a"}}
    found = await run(
        made(*[("give", {"which": name}) for name in values]), give=lambda which: values[which]
    )
    assert found == [
        ("plain", False),
        ("null", False),
        ("[1,2]", False),
        ('"{3}"', False),
        ('{"1":"a"}', False),
    ]


@pytest.mark.anyio
async def test_functions_may_be_asynchronous_and_run_side_by_side() -> None:
    met = anyio.Event()

    async def first() -> str:
        await met.wait()
        return "one"

    async def second() -> str:
        met.set()
        return "two"

    found = await run(made(("first", {}), ("second", {})), first=first, second=second)
    assert found == [("one", False), ("two", False)]


@pytest.mark.anyio
async def test_a_call_that_takes_too_long_is_an_error_result() -> None:
    ended = threading.Event()
    calls = made(("slow", {}), ("sleepy", {}))
    try:
        found = await run(calls, 0.2, slow=ended.wait, sleepy=anyio.sleep_forever)
    finally:
        ended.set()
    assert found == [("no result within 0.2 s", True)] * 2


@pytest.mark.anyio
async def test_a_tool_cannot_end_the_run() -> None:
    def leave() -> None:
        raise SystemExit(3)

    def stop() -> None:
        raise StopIteration("over")

    async def leave_later() -> None:
        raise SystemExit(4)

    calls = made(("leave", {}), ("stop", {}), ("later", {}))
    found = await run(calls, leave=leave, stop=stop, later=leave_later)
    assert [is_error for _, is_error in found] == [True] * 3
    assert found[0][0] == "SystemExit: 3"
    assert found[2][0] == "SystemExit: 4"


def completion(calls: str | None, ending: Ending = Ending.TOOL_CALLS) -> Completion:
    turn = None if calls is None else {"role": "assistant", "content": []}
    return Completion(
        ("",), "tool_use", "m", "id", Usage(), tool_calls=calls, turn=turn, ending=ending
    )


@pytest.mark.parametrize(
    ("calls", "ending", "wanted"),
    [
        (made(("known", {})), Ending.TOOL_CALLS, True),
        (made(("known", {})), Ending.LENGTH, False),
        (made(("known", {})), Ending.REFUSAL, False),
        (made(("known", {})), Ending.FILTERED, False),
        (made(("known", {}), ("bash", {})), Ending.TOOL_CALLS, False),
        ('[{"id": null, "name": "known", "input": {}}]', Ending.TOOL_CALLS, False),
        ('[{"id": "c", "name": ["known"], "input": {}}]', Ending.TOOL_CALLS, False),
        ("[]", Ending.PAUSED, False),
        (None, Ending.STOP, False),
    ],
    ids=["calls", "cut", "refused", "filtered", "vendor", "no-id", "odd", "paused", "no-calls"],
)
def test_which_answers_are_followed_up(calls: str | None, ending: Ending, wanted: bool) -> None:
    toolbox = Toolbox({"known": print}, timeout_s=1)
    assert toolbox.wants(completion(calls, ending)) is wanted


# Turns that the provider paused


SEARCH = '[request]\ntools = [{ type = "web_search_20250305", name = "web_search" }]'


def pauses(call: Call, *, times: int) -> Reply:
    """An answer that is paused so many times before it comes to its end; 12 tokens in, 6 out."""
    parts = [turn for turn in call.json["messages"] if turn["role"] == "assistant"]
    number = len(parts) + 1
    search = {"type": "server_tool_use", "id": f"srvtoolu_{number}", "name": "web_search"}
    text = {"type": "text", "text": f"part {number} ", "citations": [{"url": f"u{number}"}]}
    payload = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": call.json["model"],
        "content": [{"type": "thinking", "thinking": f"t{number}", "signature": "s"}, text, search],
        "stop_reason": "pause_turn" if number <= times else "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 6},
    }
    return Reply(body=json.dumps(payload).encode())


def sent_back(call: Call) -> list[Any]:
    return [turn for turn in call.json["messages"] if turn["role"] == "assistant"]


def test_a_paused_turn_is_sent_back_as_it_is_and_continued(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(lambda call: pauses(call, times=2)) as provider:
        job = write_job(provider.url, rows=1, request=SEARCH.removeprefix("[request]\n"))
        assert command("run", job)[0] == 0
        last = provider.calls[-1]
        answers = [json.loads(pauses(call, times=2).body) for call in provider.calls[:2]]
    assert sent_back(last) == [{"role": "assistant", "content": one["content"]} for one in answers]
    assert len(last.json["messages"]) == 3
    row = results().row(0, named=True)
    assert (row["status"], row["ending"], row["attempts"]) == ("succeeded", "stop", 3)
    assert (row["response"], row["reasoning"]) == ("part 1 part 2 part 3 ", "t1\n\nt2\n\nt3")
    assert json.loads(row["citations"]) == [{"url": "u1"}, {"url": "u2"}, {"url": "u3"}]
    assert (row["input_tokens"], row["output_tokens"], row["tool_calls"]) == (36, 18, None)


def test_a_turn_that_is_always_paused_is_bounded_and_may_go_on_later(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(lambda call: pauses(call, times=4)) as provider:
        job = write_job(
            provider.url,
            rows=1,
            request=SEARCH.removeprefix("[request]\n"),
            extra="[tools]\nmax_turns = 3",
        )
        assert command("run", job)[0] != 0
        assert len(provider.calls) == 3
        row = results().row(0, named=True)
        assert (row["status"], row["error_type"], row["ending"]) == (
            "errored",
            "max_turns",
            "paused",
        )
        assert row["response"] == "part 1 part 2 part 3 "
        assert command("run", job, "--retry-errored", "--set", "tools.max_turns=9")[0] == 0
        assert len(provider.calls) == 5
    assert results()["response"].to_list() == ["part 1 part 2 part 3 part 4 part 5 "]


def test_an_answer_by_schema_is_the_last_piece_of_a_paused_turn(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    def decide(call: Call) -> Reply:
        reply = json.loads(pauses(call, times=1).body)
        if reply["stop_reason"] == "end_turn":
            reply["content"] = [{"type": "text", "text": '{"label": "billing"}'}]
        return Reply(body=json.dumps(reply).encode())

    schema = 'json_schema = { type = "object", required = ["label"] }\n'
    with serving(decide) as provider:
        request = schema + SEARCH.removeprefix("[request]\n")
        job = write_job(provider.url, rows=1, request=request)
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 2
    assert results()["response"].to_list() == ['{"label": "billing"}']


def test_without_a_bound_of_the_job_a_paused_turn_ends_after_ten(
    write_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    with serving(lambda call: pauses(call, times=99)) as provider:
        job = write_job(provider.url, rows=1, request=SEARCH.removeprefix("[request]\n"))
        command("run", job)
        assert len(provider.calls) == 10
    assert results()["ending"].to_list() == ["paused"]


# The assistant's turn goes back unchanged


DIALECTS: dict[str, dict[str, Any]] = {
    "deepseek": {"content": "", "reasoning_content": "think"},
    "openrouter": {
        "content": None,
        "reasoning": "think",
        "reasoning_details": [
            {"type": "reasoning.text", "text": "think", "index": 0, "signature": "s"},
            {"type": "reasoning.encrypted", "data": "e", "index": 1},
        ],
    },
    "litellm": {
        "content": "I look.",
        "thinking_blocks": [{"type": "thinking", "thinking": "think", "signature": "s"}],
    },
    "mistral": {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "think"}]},
            {"type": "text", "text": "I look."},
        ]
    },
}


def with_call(message: dict[str, Any]) -> dict[str, Any]:
    function = {"name": "lookup", "arguments": '{"key": "a"}'}
    google = {"google": {"thought_signature": "sig"}}
    call = {"id": "call_1", "type": "function", "function": function, "extra_content": google}
    return {"role": "assistant", **message, "tool_calls": [call]}


def in_pieces(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The deltas of a message: each text in two halves."""
    deltas: list[dict[str, Any]] = [{"role": "assistant"}]
    for name, value in message.items():
        if name in {"role", "tool_calls"} or value is None:
            continue
        if isinstance(value, str):
            deltas += [{name: value[:2]}, {name: value[2:]}]
        else:
            deltas += [{name: [half]} for part in value for half in halves(part)]
    call = message["tool_calls"][0]
    rest = {"function": {"arguments": call["function"]["arguments"][4:]}}
    head = {**call, "function": {"name": "lookup", "arguments": '{"ke'}}
    return [*deltas, *({"tool_calls": [{"index": 0, **piece}]} for piece in (head, rest))]


def halves(part: dict[str, Any]) -> list[dict[str, Any]]:
    name = next((name for name in ("text", "thinking") if name in part), None)
    if name is None:
        return [part]
    value = part[name]
    fixed: dict[str, Any] = {k: part[k] for k in ("type", "index") if k in part}
    if isinstance(value, list):
        text = value[0]["text"]
        pieces = [[{"type": "text", "text": text[:2]}], [{"type": "text", "text": text[2:]}]]
        return [{**fixed, name: piece} for piece in pieces]
    return [{**fixed, name: value[:2]}, {**part, name: value[2:]}]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_turn_goes_back_unchanged_in_every_dialect(
    write_tools_job: WriteJob,
    results: Callable[[], pl.DataFrame],
    dialect: str,
    *,
    is_streamed: bool,
) -> None:
    message = with_call(DIALECTS[dialect])

    def decide(call: Call) -> Reply:
        if tool_results(call):
            return answer(call, "done")
        if not is_streamed:
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return Reply(body=json.dumps({"model": "m", "choices": [choice]}).encode())
        chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in in_pieces(message)]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
        lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
        return Reply(body=lines.encode(), headers={"content-type": "text/event-stream"})

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1, wire_format="chat")
        assert command("run", job)[0] == 0
        back = sent_back(provider.calls[-1])
    assert back == [{"content": None, **{k: v for k, v in message.items() if v is not None}}]
    assert results()["response"].to_list() == ["done"]


def test_what_earlier_turns_contain_is_in_the_row(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    note = {"type": "url_citation", "url_citation": {"url": "http://x"}}
    said = {"content": "I look.", "reasoning_content": "think", "annotations": [note]}

    def decide(call: Call) -> Reply:
        if len(tool_results(call)) == 2:
            last = {"role": "assistant", "content": "done", "reasoning_content": "at last"}
            choice = {"index": 0, "message": last, "finish_reason": "stop"}
        else:
            choice = {"index": 0, "message": with_call(said), "finish_reason": "tool_calls"}
        return Reply(body=json.dumps({"model": "m", "choices": [choice]}).encode())

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1, wire_format="chat")
        code, _, stderr = command("run", job)
        assert code == 0, stderr
        assert all(set(turn) <= {"role", "content", "reasoning_content", "tool_calls"}
                   for turn in sent_back(provider.calls[-1]))  # fmt: skip
    row = results().row(0, named=True)
    assert (row["response"], row["reasoning"]) == ("done", "think\n\nthink\n\nat last")
    assert json.loads(row["citations"]) == [note, note]
    assert [call["text"] for call in json.loads(row["tool_calls"])] == ["I look.", "I look."]


BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "I should look.", "signature": "c2lnbmF0dXJl"},
    {"type": "redacted_thinking", "data": "ZW5jcnlwdGVk"},
    {"type": "text", "text": "I look."},
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "a"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "u"}]},
    {"type": "text", "text": "Found.", "citations": [{"url": "u", "title": "t"}]},
    {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"key": "a", "n": 2**70}},
    {"type": "tool_use", "id": "toolu_2", "name": "lookup", "input": {}},
]


def block_events(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a content block, in pieces as the API sends them."""
    kinds = {
        "thinking": (("thinking", "thinking_delta"), ("signature", "signature_delta")),
        "text": (("text", "text_delta"),),
    }.get(block["type"], ())
    start = {**block, **dict.fromkeys((field for field, _ in kinds), "")}
    deltas: list[dict[str, Any]] = []
    for field, kind in kinds:
        half = len(block[field]) // 2
        deltas += [
            {"type": kind, field: part} for part in (block[field][:half], block[field][half:])
        ]
    if "citations" in block:
        del start["citations"]
        deltas += [{"type": "citations_delta", "citation": one} for one in block["citations"]]
    if "input" in block:
        start["input"] = {}
        text = json.dumps(block["input"]) if block["input"] else ""
        parts = (text[:3], text[3:])
        deltas += [{"type": "input_json_delta", "partial_json": part} for part in parts]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def streamed_message(blocks: list[dict[str, Any]], reason: str) -> Reply:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": head}]
    events += [event for n, block in enumerate(blocks) for event in block_events(n, block)]
    used = {"input_tokens": 12, "output_tokens": 6}
    events += [
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": used},
        {"type": "message_stop"},
    ]
    lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return Reply(body="".join(lines).encode(), headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("reason", ["tool_use", "pause_turn"])
def test_a_streamed_message_goes_back_unchanged(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame], reason: str
) -> None:
    blocks = BLOCKS if reason == "tool_use" else BLOCKS[:-2]

    def decide(call: Call) -> Reply:
        return answer(call, "done") if sent_back(call) else streamed_message(blocks, reason)

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1, request="stream = true")
        assert command("run", job)[0] == 0
        assert len(provider.calls) == 2
        assert sent_back(provider.calls[-1]) == [{"role": "assistant", "content": blocks}]
        assert b'"n":%d' % 2**70 in provider.calls[-1].body or reason == "pause_turn"
    assert results()["response"][0].endswith("done")


def test_a_legacy_function_call_is_carried_out_and_answered_by_name(
    write_tools_job: WriteJob, results: Callable[[], pl.DataFrame]
) -> None:
    function = {"name": "lookup", "arguments": '{"key": "a"}'}

    def decide(call: Call) -> Reply:
        last = call.json["messages"][-1]
        if last["role"] == "function":
            return answer(call, f"{last['name']}: {last['content']}")
        message = {"role": "assistant", "content": None, "function_call": function}
        choice = {"index": 0, "message": message, "finish_reason": "function_call"}
        return Reply(body=json.dumps({"model": "m", "choices": [choice]}).encode())

    with serving(decide) as provider:
        job = write_tools_job(provider.url, rows=1, wire_format="chat")
        assert command("run", job)[0] == 0
        assert sent_back(provider.calls[-1])[0]["function_call"] == function
    assert results()["response"].to_list() == ['lookup: {"value":"A"}']


LONG = 123456789012345678901234


@pytest.mark.parametrize("wire_format", FORMATS)
def test_integers_of_any_size_reach_the_function_and_go_back_exactly(
    write_tools_job: WriteJob,
    results: Callable[[], pl.DataFrame],
    tmp_path: Path,
    wire_format: str,
) -> None:
    (tmp_path / "my_tools.py").write_text("def lookup(key):\n    return {'plus': key + 1}\n")
    with serving(asks_once({"key": LONG})) as provider:
        job = write_tools_job(provider.url, rows=1, wire_format=wire_format)
        assert command("run", job)[0] == 0
        assert str(LONG).encode() in provider.calls[-1].body
        assert tool_results(provider.calls[-1]) == [(f'{{"plus":{LONG + 1}}}', False)]
    (call,) = json.loads(results()["tool_calls"][0])
    assert call["input"] == {"key": LONG}


def test_tools_are_spoken_of_only_where_there_are_tools(
    write_job: WriteJob, results: Callable[[], pl.DataFrame], tmp_path: Path
) -> None:
    with serving(lambda call: pauses(call, times=99)) as provider:
        job = write_job(provider.url, rows=1)
        code, _, stderr = command("run", job)
        summary = (tmp_path / "out" / "summary.json").read_text()
        said = stderr + summary + results()["error_message"][0]
        assert (code, "[tools]" in said) == (4, False)
        assert "paused the answer 10 times" in said
        searching = write_job(provider.url, rows=1, request=SEARCH.removeprefix("[request]\n"))
        _, _, stderr = command("run", searching, "--output-dir", tmp_path / "searching")
        assert "raise [tools] max_turns" in " ".join(stderr.split())
