"""What runs cost, from the provider's words to the sums: calculated by hand, to the nano-dollar."""

from __future__ import annotations

import json
import random
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.checkpoint import Checkpoint, totals
from tests.conftest import command
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# What an answer used, in the words of each format. Counts are odd, so that roundings would show.
KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "uncached": {
        "messages": {"input_tokens": 1_234, "output_tokens": 567},
        "chat": {"prompt_tokens": 1_234, "completion_tokens": 567},
    },
    "cached": {  # 34 uncached, 10,007 read
        "messages": {"input_tokens": 34, "cache_read_input_tokens": 10_007, "output_tokens": 5},
        "chat": {
            "prompt_tokens": 10_041,
            "prompt_tokens_details": {"cached_tokens": 10_007},
            "completion_tokens": 5,
        },
    },
    "5m": {  # 10 uncached, 2,001 written for five minutes
        "messages": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 2_001,
            "cache_creation": {"ephemeral_5m_input_tokens": 2_001, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 7,
        },
        "chat": {
            "prompt_tokens": 2_011,
            "claude_cache_creation_5_m_tokens": 2_001,
            "completion_tokens": 7,
        },
    },
    "1h": {  # 11 uncached, 3,000 written for an hour
        "messages": {
            "input_tokens": 11,
            "cache_creation_input_tokens": 3_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 3_000},
            "output_tokens": 3,
        },
        "chat": {
            "prompt_tokens": 3_011,
            "claude_cache_creation_1_h_tokens": 3_000,
            "completion_tokens": 3,
        },
    },
    "thinking": {  # 800 of the 999 were thought
        "messages": {
            "input_tokens": 100,
            "output_tokens": 999,
            "output_tokens_details": {"thinking_tokens": 800},
        },
        "chat": {
            "prompt_tokens": 100,
            "completion_tokens": 999,
            "completion_tokens_details": {"reasoning_tokens": 800},
        },
    },
}
# Nano-dollars: 1,000 a token for each dollar per million tokens.
#              uncached     cached         5m         1h   thinking
SONNET = (12_207_000, 3_179_100, 7_638_750, 18_078_000, 15_285_000)
OPUS_4 = (61_035_000, 15_895_500, 38_193_750, 90_390_000, 76_425_000)
TABLE = {
    # 1 in, 5 out, 0.10 read, 1.25 written for 5 minutes, 2 for an hour: for the first column
    # 1,234 × 1,000 + 567 × 5,000, for the second 34 × 1,000 + 10,007 × 100 + 5 × 5,000, and so on.
    "claude-haiku-4-5-20251001": (4_069_000, 1_059_700, 2_546_250, 6_026_000, 5_095_000),
    # 3 in, 15 out, 0.30, 3.75, 6
    "claude-3-7-sonnet-20250219": SONNET,
    "claude-sonnet-4-20250514": SONNET,
    "claude-sonnet-4-20250514-thinking": SONNET,
    "claude-sonnet-4-5-20250929": SONNET,
    "claude-sonnet-4-5-20250929-thinking": SONNET,
    # 15 in, 75 out, 1.50, 18.75, 30
    "claude-opus-4-20250514": OPUS_4,
    "claude-opus-4-20250514-thinking": OPUS_4,
    "claude-opus-4-1-20250805": OPUS_4,
    "claude-opus-4-1-20250805-thinking": OPUS_4,
    # 5 in, 25 out, 0.50, 6.25, 10
    "claude-opus-4-5-20251101": (20_345_000, 5_298_500, 12_731_250, 30_130_000, 25_475_000),
}
NANO_PER_USD = 10**9


def used(call: Call, usage: Mapping[str, Any]) -> Reply:
    """An answer that used these tokens."""
    payload = json.loads(answer(call).body)
    return Reply(body=json.dumps({**payload, "usage": usage}).encode())


def run(
    directory: Path,
    decide: Callable[[Call], Reply],
    rows: pl.DataFrame,
    *,
    wire_format: str = "messages",
    extra: str = "",
    code: int = 0,
) -> Path:
    """Run a job whose rows name their model; return the run's directory."""
    rows.write_parquet(directory / "rows.parquet")
    with serving(decide) as provider:
        (directory / "job.toml").write_text(
            f"""[input]
path = "rows.parquet"
[request]
format = "{wire_format}"
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = "TEST_KEY"
model = "{{{{ asked }}}}"
prompt = "{{{{ text }}}}"
max_tokens = 2000
{extra}
[output]
dir = "out"
"""
        )
        found, _, stderr = command("run", directory / "job.toml", "--quiet")
    assert found == code, stderr
    return directory / "out"


def nano(usd: float | None) -> int:
    """Return a sum of a file in nano-dollars; it has no fraction of one."""
    assert usd is not None
    exact = Decimal(repr(usd)) * NANO_PER_USD
    assert abs(exact - round(exact)) < Decimal("1e-3")
    return round(exact)


def summary(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_text())


@pytest.mark.parametrize("wire_format", ["messages", "chat"])
def test_each_model_and_kind_costs_what_the_price_list_says(
    tmp_path: Path, wire_format: str
) -> None:
    right = {(m, k): cost for m, row in TABLE.items() for k, cost in zip(KINDS, row, strict=True)}
    rows = pl.DataFrame({"asked": [m for m, _ in right], "text": [k for _, k in right]})
    out = run(
        tmp_path,
        lambda call: used(call, KINDS[call.prompt][wire_format]),
        rows,
        wire_format=wire_format,
    )
    table = pl.read_parquet(out / "results.parquet")
    found = {(m, k): nano(cost) for m, k, cost in table.select("asked", "text", "cost_usd").rows()}
    assert found == right
    money = summary(out)["cost_usd"]
    assert nano(money["total"]) == sum(right.values()) == 1_522_471_950
    assert {m: nano(cost) for m, cost in money["by_model"].items()} == {
        m: sum(row) for m, row in TABLE.items()
    }
    # In, read, written and out of each kind, at 1 USD a million tokens for the input, times 81: the
    # sum of the input prices of all models.
    by_kind = {kind: nano(cost) for kind, cost in money["by_kind"].items()}
    assert by_kind == {
        "uncached_input": 81_000 * (1_234 + 34 + 10 + 11 + 100),
        "cache_read": 8_100 * 10_007,
        "cache_write": 101_250 * 2_001 + 162_000 * 3_000,
        "output": 405_000 * (567 + 5 + 7 + 3 + 999),
        "other": 0,
    }
    assert nano(money["saved_by_cache"]) == 72_900 * 10_007


def test_the_price_is_kept_with_the_run(tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {"asked": ["claude-sonnet-4-5-20250929-thinking", "strange"], "text": ["a", "b"]}
    )
    out = run(tmp_path, answer, rows)
    priced, unknown = sorted(summary(out)["prices"], key=lambda price: price["model"])
    assert priced["matched"] == "anthropic/claude-sonnet-4-5"
    assert priced["source"].startswith("genai-prices 0.")
    assert priced["as_of"][:10] == summary(out)["executions"][0]["started_at"][:10]
    rates = {"input": 3, "output": 15, "cache_read": 0.3, "cache_write": 3.75, "cache_write_1h": 6}
    assert priced["usd_per_million_tokens"] == rates
    (tier,) = priced["tiers"]
    assert tier["above_input_tokens"] == 200_000
    assert tier["usd_per_million_tokens"]["output"] == 22.5
    assert (unknown["model"], unknown["matched"], unknown["tiers"]) == ("strange", None, [])
    assert unknown["usd_per_million_tokens"] is None


def test_the_price_of_the_job_file_is_kept_with_the_run(tmp_path: Path) -> None:
    rows = pl.DataFrame({"asked": ["strange"], "text": ["a"]})
    out = run(tmp_path, answer, rows, extra="[price]\ninput = 0.000007\noutput = 2")
    (price,) = summary(out)["prices"]
    assert price["source"] == price["matched"] == "[price] of the job file"
    assert price["usd_per_million_tokens"]["input"] == 0.000007
    # 11 × 0.007 + 7 × 2,000 nano-dollars: a fraction of one is kept as well.
    assert summary(out)["cost_usd"]["total"] == 0.000014000077


def test_answers_that_were_refused_as_invalid_were_paid_for(tmp_path: Path) -> None:
    """Two of three answers violate the schema: all three were paid for, 46 micro-dollars each."""
    schema = (
        'json_schema = {type = "object", properties = {a = {type = "integer"}}, required = ["a"]}'
    )
    rows = pl.DataFrame({"asked": ["claude-haiku-4-5-20251001"], "text": ["x"]})
    out = run(
        tmp_path,
        lambda call: answer(call, '{"a": 1}' if call.seen == 2 else "no"),
        rows,
        extra=schema,
    )
    found = summary(out)
    assert found["attempts"] == 3
    assert nano(found["cost_usd"]["total"]) == 3 * 46_000
    assert found["models"][0]["input_tokens"] == 33
    row = pl.read_parquet(out / "results.parquet").row(0, named=True)
    assert (nano(row["cost_usd"]), row["attempts"]) == (3 * 46_000, 3)
    attempts = pl.read_parquet(out / "usage.parquet")
    assert [nano(cost) for cost in attempts["cost_usd"]] == [46_000] * 3


def test_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    chance = random.Random(5)
    models = [*TABLE, "claude-3-haiku-20240307"]

    def any_usage(call: Call) -> Reply:
        counts = [chance.randrange(10 ** chance.randrange(1, 6)) for _ in range(4)]
        names = (
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        )
        return used(call, dict(zip(names, counts, strict=True)))

    rows = pl.DataFrame(
        {
            "asked": [models[n % len(models)] for n in range(400)],
            "text": [f"{n}" for n in range(400)],
        }
    )
    out = run(tmp_path, any_usage, rows)
    with closing(Checkpoint(out, writable=False)) as store:
        in_pico = sum(store.columns(0, 400, ["cost_usd"])["cost_usd"])
        assert totals(store).cost.total == in_pico
    money = summary(out)["cost_usd"]
    assert nano(money["total"]) == in_pico // 1_000
    assert sum(map(nano, money["by_model"].values())) == sum(map(nano, money["by_kind"].values()))
    for name in ("results.parquet", "usage.parquet"):
        assert sum(map(nano, pl.read_parquet(out / name)["cost_usd"])) == nano(money["total"])


def stream(*events: dict[str, Any]) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()


def message_start(call: Call) -> dict[str, Any]:
    usage = {"input_tokens": 11, "cache_read_input_tokens": 1_000, "output_tokens": 2}
    message = {"id": "msg", "model": call.json["model"], "role": "assistant", "usage": usage}
    return {"type": "message_start", "message": {**message, "content": []}}


@pytest.mark.parametrize(
    "last", [{"type": "ping"}, {"type": "error", "error": {"type": "api_error", "message": "x"}}]
)
def test_a_stream_that_breaks_off_costs_what_it_told(tmp_path: Path, last: dict[str, Any]) -> None:
    """11 in, 1,000 read, 2 out: 0.000121 USD of haiku's prices, told before it broke off."""

    def breaks_once(call: Call) -> Reply:
        if call.seen:
            return answer(call)
        events = {"content-type": "text/event-stream"}
        return Reply(200, stream(message_start(call), last), events)

    rows = pl.DataFrame({"asked": ["claude-haiku-4-5-20251001"], "text": ["x"]})
    out = run(tmp_path, breaks_once, rows, extra="stream = true\n[retry]\nmax_attempts = 2")
    attempts = pl.read_parquet(out / "usage.parquet")
    assert [nano(cost) for cost in attempts["cost_usd"]] == [121_000, 46_000]
    assert attempts["input_tokens"].to_list() == [1_011, 11]
    found = summary(out)
    assert nano(found["cost_usd"]["total"]) == 167_000
    assert found["possibly_double_billed"] == 1
    assert found["models"][0]["answers"] == 1


def test_what_broke_off_counts_with_all_it_may_have_cost_against_the_cap(tmp_path: Path) -> None:
    """A cap of 0.02 USD pays for one answer of at most 2,000 tokens (0.01 USD), not for a second."""
    rows = pl.DataFrame({"asked": ["claude-haiku-4-5-20251001"], "text": ["x"]})
    headers = {"content-type": "text/event-stream"}
    extra = "stream = true\n[limits]\nmax_cost_usd = 0.02\n[retry]\nmax_attempts = 9"
    out = run(
        tmp_path,
        lambda call: Reply(200, stream(message_start(call)), headers),
        rows,
        extra=extra,
        code=4,
    )
    assert summary(out)["attempts"] == 1
    assert nano(summary(out)["cost_usd"]["total"]) == 121_000
