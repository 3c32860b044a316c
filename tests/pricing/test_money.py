"""Money as a user sees it: tiers and costs that answers state, costs counted again, what a run did."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.checkpoint import DirectoryLock
from tests.conftest import batchrun, command, finish, start_batchrun
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    WriteJob = Callable[..., Path]
    Results = Callable[[], pl.DataFrame]

COSTS = """SELECT request_id, number, cost_uncached_input, cost_cache_read, cost_cache_write,
    cost_output, cost_other, cache_saved, cost_source FROM attempts ORDER BY 1, 2"""


def saying(call: Call, usage: Mapping[str, Any], **facts: Any) -> Reply:
    """An answer with this usage, and other facts beside it."""
    payload = json.loads(answer(call).body)
    return Reply(body=json.dumps({**payload, **facts, "usage": usage}).encode())


def summary(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_text())


def costs(directory: Path) -> list[Any]:
    with closing(sqlite3.connect(directory / "checkpoint.db")) as db:
        return db.execute(COSTS).fetchall()


CHAT = {"prompt_tokens": 100_000, "completion_tokens": 10_000}
TIERS = ["default", "flex", "priority", "scale", None]


def test_the_tier_that_served_an_answer_sets_its_price(
    write_job: WriteJob, tmp_path: Path, results: Results
) -> None:
    def decide(call: Call) -> Reply:
        tier = TIERS[int(call.prompt.split()[-1])]
        return saying(call, CHAT, **({} if tier is None else {"service_tier": tier}))

    with serving(decide) as provider:
        job = write_job(provider.url, rows=5, wire_format="chat", provider="openai")
        assert command("run", job, "--model", "gpt-5-mini", "--quiet")[0] == 0
    # 0.25 in and 2 out; flex 0.125 and 1; priority 0.45 and 3.6 USD per million tokens.
    assert results()["cost_usd"].to_list() == [0.045, 0.0225, 0.081, None, 0.045]
    found = summary(tmp_path / "out")
    assert found["cost_usd"]["total"] == 0.1935
    assert found["cost_usd"]["answers_without_price"] == 1
    priced = {price["conditions"]: price["matched"] for price in found["prices"]}
    assert priced == {
        None: "openai/gpt-5-mini",
        "flex": "openai/gpt-5-mini",
        "priority": "openai/gpt-5-mini",
        "scale": None,
    }
    usage = pl.read_parquet(tmp_path / "out" / "usage.parquet").sort("custom_id")
    assert usage["service_tier"].to_list() == TIERS
    assert usage["cost_source"].to_list() == ["price_list"] * 3 + [None, "price_list"]


def test_a_cost_that_the_provider_states_is_the_cost(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda call: saying(call, {**CHAT, "cost": 0.0123})) as provider:
        job = write_job(provider.url, rows=2, wire_format="chat", provider=None)
        assert command("run", job, "--model", "house-model", "--quiet")[0] == 0
    found = summary(tmp_path / "out")
    assert found["cost_usd"]["total"] == found["cost_usd"]["by_kind"]["other"] == 0.0246
    assert found["cost_usd"]["answers_without_price"] == 0
    (price,) = found["prices"]
    assert (price["source"], price["matched"]) == ("stated by the provider", None)
    usage = pl.read_parquet(tmp_path / "out" / "usage.parquet")
    assert usage["cost_source"].to_list() == ["stated"] * 2


def test_a_server_on_this_machine_has_no_prices_and_the_simulator_those_of_the_job(
    write_job: WriteJob, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, provider=None)
        code, _, stderr = command("run", job)
    assert code == 0
    assert summary(tmp_path / "out")["cost_usd"]["total"] is None
    assert "the price of 2 answers is unknown: set [price], then recalculate:" in stderr
    assert f"batchrun recost {tmp_path / 'out'} --job JOB" in stderr
    cloud = ("--base-url", "https://api.anthropic.com", "--simulate", "--quiet")
    assert command("run", job, *cloud)[0] == 0
    assert summary(tmp_path / "out.simulated")["cost_usd"]["total"] > 0


# What an answer of the messages format may say that changes its price.
SAID: list[dict[str, Any]] = [
    {},
    {"service_tier": "batch"},
    {"server_tool_use": {"web_search_requests": 3}},
    {"inference_geo": "us"},
    {"service_tier": "priority"},
    {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 500}},
]


def varied(call: Call) -> Reply:
    said = SAID[int(call.prompt.split()[-1]) % len(SAID)]
    usage = {"input_tokens": 1_000, "cache_creation_input_tokens": 500, "output_tokens": 300}
    return saying(call, {**usage, **said})


@pytest.fixture
def varied_run(write_job: WriteJob, tmp_path: Path) -> Path:
    """A job that has run, with answers of many prices; its run is in `out`."""
    with serving(varied) as provider:
        job = write_job(provider.url, rows=len(SAID))
        assert command("run", job, "--quiet")[0] == 0
    assert summary(tmp_path / "out")["cost_usd"]["answers_without_price"] == 1
    assert "at least $0." in command("status", tmp_path / "out")[1]
    return job


def priced(job: Path, section: str) -> Path:
    """The job with a section of prices, in a file beside it."""
    other = job.with_name("priced.toml")
    other.write_text(job.read_text() + section)
    return other


def test_counting_again_there_and_back_gives_the_same(varied_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before, files = costs(out), summary(out)
    results = pl.read_parquet(out / "results.parquet")
    section = '[price."claude-haiku-4-5-20251001"]\ninput = 7\noutput = 0\nweb_search = 2\n'
    code, stdout, stderr = command("recost", out, "--job", priced(varied_run, section))
    assert code == 0, stderr
    # 6 × 1,500 tokens in at 7 USD per million, and 3 searches at 2 USD per thousand.
    assert "$0.069000 (before: at least $0." in stdout
    counted = summary(out)
    assert counted["cost_usd"]["total"] == 0.069
    assert counted["cost_usd"]["answers_without_price"] == 0
    assert {price["source"] for price in counted["prices"]} == {"[price] of the job file"}
    assert pl.read_parquet(out / "results.parquet")["cost_usd"].sum() == pytest.approx(0.069)
    assert command("verify", out)[0] == 0
    assert command("recost", out)[0] == 0, "the run has kept the prices"
    assert summary(out)["cost_usd"] == counted["cost_usd"]
    assert command("recost", out, "--job", varied_run)[0] == 0
    assert costs(out) == before
    again = summary(out)
    for price in (*files["prices"], *again["prices"]):
        del price["as_of"]
    assert again == files
    assert pl.read_parquet(out / "results.parquet").equals(results)


def test_counting_again_sends_nothing_and_neither_does_the_next_run(
    write_job: WriteJob, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=3, provider=None)
        house = ("--model", "house.model-1", "--quiet")
        assert command("run", job, *house)[0] == 0
        assert summary(tmp_path / "out")["cost_usd"]["total"] is None
        own = priced(job, '[price."house.model-1"]\ninput = 1\noutput = 10\n')
        code, stdout, _ = command("recost", tmp_path / "out", "--job", own, "--json")
        assert code == 0
        (facts,) = json.loads(stdout)["runs"]
        # 11 tokens in and 7 out, three times.
        assert (facts["before_usd"], facts["cost_usd"]) == (None, 3 * 81e-6)
        assert facts["answers_without_price"] == 0
        setting = (
            "--set",
            'price."house.model-1".input=1',
            "--set",
            'price."house.model-1".output=10',
        )
        assert command("run", job, *house, *setting)[0] == 0
        assert len(provider.calls) == 3
    assert summary(tmp_path / "out")["cost_usd"]["total"] == 3 * 81e-6


def test_a_price_that_was_given_holds_until_another_is(write_job: WriteJob, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        job = write_job(provider.url, rows=3, provider=None)
        table = tmp_path / "rows.csv"
        assert command("run", job, "--quiet")[0] == 0
        code, stdout, stderr = command("recost", out)
        assert code == 0
        assert "unknown (before: unknown)" in stdout
        assert '[price."MODEL"]' in stderr
        assert f"batchrun recost {out} --job JOB" in stderr
        own = priced(job, "[price]\ninput = 1\noutput = 10\n")
        _, stdout, stderr = command("recost", out, "--job", own, "--json")
        assert json.loads(stdout)["runs"][0]["cost_usd"] == 3 * 81e-6
        assert stderr.strip() == "kept for later runs: [price] of the job file"
        # New answers are counted by it, and so is everything else.
        table.write_text(table.read_text() + "new,row\n")
        _, _, stderr = command("run", job)
        assert "costs are calculated with the price given to batchrun recost" in stderr
        assert summary(out)["cost_usd"]["total"] == 4 * 81e-6
        assert command("recost", out)[0] == 0
        assert command("run", job)[0] == 0
        assert summary(out)["cost_usd"]["total"] == 4 * 81e-6
        # Another price: that of the job file.
        other = job.with_name("other.toml")
        other.write_text(job.read_text() + "[price]\ninput = 0\noutput = 100\n")
        table.write_text(table.read_text() + "newer,row 2\n")
        _, _, stderr = command("run", other)
        assert "replaces the price given to batchrun recost" in stderr
        assert summary(out)["cost_usd"]["total"] == pytest.approx(4 * 81e-6 + 700e-6)
        # Without it, nothing is kept any more; what is known is not shown as the whole.
        table.write_text(table.read_text() + "newest,row 3\n")
        assert command("run", job, "--quiet")[0] == 0
        assert command("recost", out, "--job", job)[0] == 0
        assert summary(out)["cost_usd"]["total"] is None
        assert len(provider.calls) == 6


def test_a_given_price_that_is_damaged_is_named(varied_run: Path, tmp_path: Path) -> None:
    database = tmp_path / "out" / "checkpoint.db"
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("""UPDATE run SET given_price = '{"input": 100.0}'""")
    code, _, stderr = batchrun("run", varied_run)
    assert code == 5, stderr
    assert f"{database}: the stored description of the run is damaged" in stderr
    assert "except a price given to recost" in stderr
    assert batchrun("run", varied_run, "--retry-errored")[0] == 0
    assert command("recost", tmp_path / "out", "--job", varied_run)[0] == 0


def test_a_provider_that_was_given_holds_too(write_job: WriteJob, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        job = write_job(provider.url, rows=2, provider=None)
        assert command("run", job, "--quiet")[0] == 0
        named = job.with_name("named.toml")
        text = job.read_text().replace("[request]\n", '[request]\nprovider = "anthropic"\n')
        named.write_text(text)
        assert command("recost", out, "--job", named)[0] == 0
        table = tmp_path / "rows.csv"
        table.write_text(table.read_text() + "new,row\n")
        assert command("run", job, "--quiet")[0] == 0
        assert summary(out)["cost_usd"]["total"] == 3 * 46e-6
        assert command("recost", out)[0] == 0
    assert summary(out)["cost_usd"]["total"] == 3 * 46e-6


def test_a_named_provider_brings_the_prices_of_the_list(
    write_job: WriteJob, tmp_path: Path
) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, provider=None)
        assert command("run", job, "--quiet")[0] == 0
    named = job.with_name("named.toml")
    named.write_text(job.read_text().replace("[request]\n", '[request]\nprovider = "anthropic"\n'))
    assert command("recost", tmp_path / "out", "--job", named)[0] == 0
    assert summary(tmp_path / "out")["cost_usd"]["total"] == 2 * 46e-6
    assert command("verify", tmp_path / "out")[0] == 0, "what was asked is as it was"


def test_stated_costs_stay(write_job: WriteJob, tmp_path: Path) -> None:
    with serving(lambda call: saying(call, {**CHAT, "cost": 0.5})) as provider:
        job = write_job(provider.url, rows=2, wire_format="chat")
        assert command("run", job, "--quiet")[0] == 0
    before = costs(tmp_path / "out")
    own = priced(job, "[price]\ninput = 1\noutput = 1\n")
    assert command("recost", tmp_path / "out", "--job", own)[0] == 0
    assert costs(tmp_path / "out") == before


def test_every_cell_of_a_matrix_is_counted_again(write_job: WriteJob, tmp_path: Path) -> None:
    with serving() as provider:
        job = write_job(provider.url, rows=2, extra='[matrix]\nmodel = ["a", "b"]\n')
        assert command("run", job, "--quiet")[0] == 0
    own = priced(job, "[price.a]\ninput = 1\noutput = 0\n[price.b]\ninput = 2\noutput = 0\n")
    code, stdout, _ = command("recost", tmp_path / "out", "--job", own)
    assert code == 0
    assert len(stdout.splitlines()) == 2
    found = [summary(tmp_path / "out" / f"model={name}")["cost_usd"]["total"] for name in "ab"]
    assert found == [22e-6, 44e-6]


def test_counting_again_waits_for_nobody(varied_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = costs(out), summary(out)
    with DirectoryLock(out):
        code, _, stderr = batchrun("recost", out)
    assert code == 5
    assert "another batchrun process is working on this run" in stderr
    table = tmp_path / "rows.csv"
    table.write_text(table.read_text() + "new,row\n")
    code, _, stderr = command("recost", out)
    assert code == 6
    assert "has changed since the run" in stderr
    assert (costs(out), summary(out)) == before
    code, _, stderr = command("recost", out, "--job", priced(varied_run, "[price]\ninput = 1\n"))
    assert code == 2
    assert "[price] output: is missing" in stderr


# The cap

CAPPED = "[limits]\nmax_cost_usd = {cap}\nconcurrency = 64\n"


def test_reasoning_beside_the_completion_stops_a_capped_run_at_its_first_answer(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """50,000 tokens of reasoning at 15 USD per million, where 50 tokens were allowed."""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 50_018}
    with serving(lambda call: saying(call, usage)) as provider:
        job = write_job(
            provider.url,
            rows=300,
            wire_format="chat",
            provider="x-ai",
            extra=CAPPED.format(cap=0.05),
        )
        code, _, stderr = command("run", job, "--model", "grok-4")
        assert code == 4, stderr
        assert "max_cost_usd cannot be kept: an answer of grok-4 cost 0.750138 USD" in stderr
        assert len(provider.calls) == 1
        found = summary(tmp_path / "out")
        # 11 × 3 + 50,007 × 15 millionths.
        assert found["cost_usd"]["total"] == 0.750138
        assert found["executions"][-1]["outcome"] == "cost_above_bound"
        assert "To continue" not in stderr
        assert (found["counts"]["succeeded"], found["counts"]["pending"]) == (1, 299)
        code, _, stderr = command("run", job, "--model", "grok-4")
        assert code == 4
        assert "max_cost_usd = 0.05 is reached" in stderr
        assert len(provider.calls) == 1


PRICED = "[limits]\nconcurrency = 1\nmax_cost_usd = 0.05\n[price]\ninput = 1.0\noutput = 10.0\n"


def test_a_stated_cost_above_the_price_names_the_price(write_job: WriteJob) -> None:
    def decide(call: Call) -> Reply:
        return saying(call, {"prompt_tokens": 11, "completion_tokens": 7, "cost": 0.02})

    with serving(decide) as provider:
        job = write_job(provider.url, rows=20, wire_format="chat", extra=PRICED)
        code, _, stderr = command("run", job)
    assert code == 4
    assert "check the model's price in [price]" in stderr
    assert "raise max_tokens" not in stderr


def test_unreported_tokens_are_named_and_the_cap_tells_what_is_only_possible(
    write_job: WriteJob,
) -> None:
    with serving(lambda call: saying(call, {})) as provider:
        job = write_job(
            provider.url, rows=50, wire_format="chat", extra=PRICED.replace("0.05", "0.005")
        )
        for _ in range(2):
            code, _, stderr = command("run", job)
            assert code == 4
            text = " ".join(stderr.split())
            assert "the provider reported no tokens for" in text
            assert "recost" not in text
            assert "USD are spent or possibly billed (0 USD of known cost, up to 0.00" in text


def test_stated_costs_are_not_split_by_kind(write_job: WriteJob, tmp_path: Path) -> None:
    def decide(call: Call) -> Reply:
        return saying(call, {"prompt_tokens": 11, "completion_tokens": 7, "cost": 0.02})

    with serving(decide) as provider:
        code, _, stderr = command("run", write_job(provider.url, rows=20, wire_format="chat"))
    assert code == 0
    assert "$0.000000" not in stderr
    assert "$0.400000" in stderr
    kinds = summary(tmp_path / "out")["cost_usd"]["by_kind"]
    assert (kinds["uncached_input"], kinds["output"], kinds["other"]) == (None, None, 0.4)


def test_a_server_that_ignores_max_tokens_later_ends_the_run_then(
    write_job: WriteJob, tmp_path: Path
) -> None:
    def decide(call: Call) -> Reply:
        output = 1_000_000 if call.number >= 30 else 7
        return saying(call, {"input_tokens": 11, "output_tokens": output})

    with serving(decide) as provider:
        job = write_job(provider.url, rows=300, extra=CAPPED.format(cap=5).replace("64", "4"))
        code, _, stderr = command("run", job)
        assert code == 4, stderr
        assert "for 1,000,000 output tokens, and max_tokens" in stderr
        assert "raise max_tokens" in stderr
        assert len(provider.calls) <= 34, "what was in flight, and nothing after it"
    last = summary(tmp_path / "out")["last_execution"]
    assert last["sent"] == len(provider.calls)


@pytest.mark.parametrize(
    ("usage", "facts", "said"),
    [
        ({**CHAT, "cost": 3.5}, {}, "cost 3.5 USD"),
        (
            {"prompt_tokens": 1, "completion_tokens": 1},
            {"service_tier": "scale"},
            "used something whose price is not known",
        ),
    ],
    ids=["stated", "unknown-tier"],
)
def test_a_cost_that_no_bound_covers_stops_a_capped_run(
    write_job: WriteJob, usage: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    with serving(lambda call: saying(call, usage, **facts)) as provider:
        job = write_job(
            provider.url,
            rows=100,
            wire_format="chat",
            provider="openai",
            extra=CAPPED.format(cap=900),
        )
        code, _, stderr = command("run", job, "--model", "gpt-5-mini")
        assert code == 4, stderr
        assert said in stderr
        assert len(provider.calls) == 1


def test_a_capped_run_sends_one_request_to_each_model_before_more(write_job: WriteJob) -> None:
    """Only its first answer shows whether a server keeps to what a request allows."""
    names = ["claude-haiku-4-5", "claude-opus-4-5"]
    arrived: list[int] = []

    def decide(call: Call) -> Reply:
        delay_s = 0.3 if call.number < 3 else 0.0
        return answer(call, delay_s=delay_s, then=lambda: arrived.append(len(provider.calls)))

    with serving(decide) as provider:
        job = write_job(provider.url, extra=CAPPED.format(cap=5))
        rows = {"id": [f"r{n}" for n in range(60)], "text": [names[n % 2] for n in range(60)]}
        pl.DataFrame(rows).write_csv(job.parent / "rows.csv")
        code, _, stderr = command("run", job, "--model", "{{ text }}", "--quiet")
        assert code == 0, stderr
        assert len(provider.calls) == 60
        assert {call.json["model"] for call in provider.calls[:2]} == set(names)
        assert arrived[0] == 2, "nothing else was sent before the first answer"


def test_a_priority_request_is_bounded_by_its_own_price(write_job: WriteJob) -> None:
    with serving() as provider:
        job = write_job(
            provider.url,
            rows=400,
            wire_format="chat",
            provider="openai",
            request='service_tier = "priority"',
            extra=CAPPED.format(cap=0.001),
        )
        # 3.6 USD per million tokens out: 50 tokens may cost 0.00018 USD, and 0.0001 at the standard.
        code, _, stderr = command("run", job, "--model", "gpt-5-mini")
        assert code == 4, stderr
        code, _, stderr = command(
            "run", job, "--model", "gpt-4o-mini", "--set", "service_tier=flex"
        )
        assert code == 2
        assert "the price of gpt-4o-mini is not known with service_tier = 'flex'" in stderr


# What one execution did


def test_each_execution_is_told_by_itself_and_averages_go_by_what_rows_hold(
    write_job: WriteJob, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving() as provider:
        job = write_job(provider.url, rows=20)
        assert command("run", job, "--quiet")[0] == 0
        first = summary(out)["last_execution"]
        assert first == {
            "sent": 20,
            "succeeded": 20,
            "errored": 0,
            "tokens": {"input": 220, "output": 140},
            "cost_usd": 20 * 46e-6,
        }
        code, _, stderr = command("run", job, "--set", "prompt=Tell {{ text }}", "--yes")
        assert code == 0
        assert "$0.046000 per 1,000 rows" in stderr, "not what the rows cost before the edit, too"
        assert "20 sent · 20 succeeded · $0.000920" in stderr
        found = summary(out)
        assert found["cost_usd"]["total"] == pytest.approx(40 * 46e-6)
        assert found["last_execution"] == first
        busy = sum(each["wall_time_s"] for each in found["executions"])
        assert found["throughput"]["rows_per_s"] == pytest.approx(40 / busy, rel=0.05)
        assert command("run", job, "--set", "prompt=Tell {{ text }}", "--quiet")[0] == 0
        idle = summary(out)
        assert idle["last_execution"] == {
            "sent": 0,
            "succeeded": 0,
            "errored": 0,
            "tokens": {"input": 0, "output": 0},
            "cost_usd": 0,
        }
        assert idle["throughput"] == found["throughput"], "nothing was sent in that time"


def test_an_interrupted_execution_counts_what_it_sent(write_job: WriteJob, tmp_path: Path) -> None:
    victim = [0]

    def decide(call: Call) -> Reply:
        if call.number == 10 and victim[0]:
            os.kill(victim[0], signal.SIGINT)
        if call.number == 3:
            return refusal(400, "invalid_request_error")
        return answer(call, delay_s=0.05)

    with serving(decide) as provider:
        job = write_job(provider.url, rows=200, extra="[limits]\nconcurrency = 2\n")
        log = tmp_path / "log.jsonl"
        process = start_batchrun("run", job, "--log-file", log)
        victim[0] = process.pid
        assert finish(process)[0] == 130
        victim[0] = 0
        sent = len(provider.calls)
        found = summary(tmp_path / "out")
        last = found["last_execution"]
        assert (last["sent"], last["errored"]) == (sent, 1)
        assert last["succeeded"] == found["counts"]["succeeded"] == sent - 1
        assert last["cost_usd"] == pytest.approx((sent - 1) * 46e-6)
        assert found["cost_usd"]["projected_total"] == pytest.approx(
            found["cost_usd"]["total"] * 200 / sent, rel=1e-9
        )
        events = [json.loads(line) for line in log.read_text().splitlines()]
        assert events[-1]["summary"]["last_execution"] == last
        assert batchrun("run", job, "--quiet")[0] == 3
    found = summary(tmp_path / "out")
    assert found["last_execution"]["sent"] == 200 - sent
    assert found["last_execution"]["errored"] == 0


def test_tokens_that_nobody_counted_are_null(write_job: WriteJob, tmp_path: Path) -> None:
    def decide(call: Call) -> Reply:
        payload = json.loads(answer(call).body)
        del payload["usage"]
        return Reply(body=json.dumps(payload).encode())

    with serving(decide) as provider:
        job = write_job(provider.url, rows=2)
        code, _, stderr = command("run", job)
    assert code == 0
    found = summary(tmp_path / "out")
    assert set(found["tokens"].values()) == {None}
    assert found["last_execution"]["tokens"] == {"input": None, "output": None}
    assert found["last_execution"]["cost_usd"] is None
    (model,) = found["models"]
    assert (model["input_tokens"], model["output_tokens"], model["cost_usd"]) == (None,) * 3
    assert "the provider reported no tokens for 2 answers" in stderr
