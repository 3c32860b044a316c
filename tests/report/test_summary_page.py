"""docs/summary.md and docs/summary.schema.json say exactly what a real summary.json has."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from batchrun.report import SCHEMA_VERSION
from benchmarks.summary_schema import as_text, documented, schema_of
from tests.conftest import ROOT, command
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.vendor import vendor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "summary.schema.json").read_text())
PAGE = (ROOT / "docs" / "summary.md").read_text(encoding="utf-8")


def keys(found: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the keys of a real summary, spelled as in the documentation."""
    if isinstance(found, list):
        for one in found:
            yield from keys(one, schema.get("items", {}), f"{path}[]")
    if isinstance(found, dict):
        for name, value in found.items():
            known = schema.get("properties", {}).get(name)
            shown = name if known is not None or "additionalProperties" not in schema else "*"
            at = f"{path}.{shown}" if path else shown
            inner = known or schema.get("additionalProperties") or {}
            yield at
            if "$ref" not in inner:  # documented where it refers to
                yield from keys(value, inner, at)


def decide(call: Call) -> Reply:
    n = int(call.prompt.split()[1])
    if n == 3:
        return refusal(400, "invalid_request_error", "refused")
    if n == 4 and not call.seen:
        return refusal(429, "rate_limit_error", "later", retry_after="0.05")
    if "top_k" in call.json:
        return refusal(400, "invalid_request_error", "top_k: Extra inputs are not permitted")
    return answer(call, "yes" if (n + call.seen) % 2 else "no")


JUDGED = """[score.judge]
prompt = "{{ text }} {{ response }}"
choices = { yes = 1, no = 0 }
human = "yes"
"""
RUNS = {
    "plain": ("", ""),
    "capped": ("", "[limits]\nmax_cost_usd = 0.0004\nconcurrency = 1"),
    "dropped": ('top_k = 5\non_unsupported = "drop"', ""),
    "unpriced": ('model = "strange"', ""),
    "scored": ("", '[score]\nexpected = "yes"\nmatch = "exact"'),
    "sampled": ("samples = 2", '[score]\nexpected = "yes"\nmatch = "exact"'),
    "several": ("", '[[score]]\nname = "a"\nexpected = "yes"'),
    "judged": ("", JUDGED),
    "sliced": (
        "",
        """[score]
expected = "yes"
by = ["text"]
cluster = "text\"""",
    ),
    "confident": ('format = "chat"\nlogprobs = true', '[score]\nexpected = "yes"'),
    "fields": (
        "",
        """[score]
expected = '{"a": {"b": 1}}'
match = "fields\"""",
    ),
    "labels": (
        "",
        """[score]
expected = "yes, no"
match = "set\"""",
    ),
    "numbers": ("", '[score]\nexpected = "1"\nmatch = "number"'),
    "stopped": ("", '[score]\nexpected = "yes"\nstop_at = "±25 %"'),
    "judged_too": (
        "samples = 2",
        f'[[score]]\nname = "a"\nexpected = "yes"\n[[score]]\nname = "b"\n{JUDGED}',
    ),
    "tiered": ('model = "claude-sonnet-4-5-20250929"', ""),
    "audio": ('model = "gemini-2.5-pro"\nprovider = "google"', ""),
}


@pytest.fixture(scope="module")
def summaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What real runs of several kinds wrote."""
    folder = tmp_path_factory.mktemp("summaries")
    (folder / "rows.csv").write_text("text\n" + "".join(f"row {n}\n" for n in range(10)))
    found = {}
    with serving(decide) as provider:
        for name, (request, extra) in RUNS.items():
            model = "" if "model" in request else 'model = "claude-haiku-4-5-20251001"'
            kind = "" if "format" in request else 'format = "messages"'
            named = "" if "provider" in request else 'provider = "anthropic"'
            (folder / f"{name}.toml").write_text(
                f"""[input]
path = "rows.csv"
[request]
{kind}
base_url = "{provider.url}/{name}"
api_key_env = "TEST_KEY"
prompt = "{{{{ text }}}}"
max_tokens = 50
{model}
{named}
{request}
{extra}
[output]
dir = "{name}"
"""
            )
            code, _, stderr = command("run", folder / f"{name}.toml", "--quiet")
            assert code in {3, 4}, stderr
            found[name] = json.loads((folder / name / "summary.json").read_text())
    with vendor() as server:
        text = (folder / "plain.toml").read_text().replace(f"{provider.url}/plain", server.url)
        text = text.replace('dir = "plain"', 'dir = "batches"\n[batch]\npoll_s = 0.05')
        (folder / "batches.toml").write_text(text)
        code, _, stderr = command("run", folder / "batches.toml", "--quiet", "--batch")
        assert code == 0, stderr
        found["batches"] = json.loads((folder / "batches" / "summary.json").read_text())
    return found


def test_real_summaries_satisfy_the_schema(summaries: dict[str, Any]) -> None:
    validator = jsonschema_rs.validator_for(SCHEMA)
    for name, summary in summaries.items():
        assert [f"{name}: {error}" for error in validator.iter_errors(summary)] == []
    for key in summaries["plain"]:
        rest = {name: value for name, value in summaries["plain"].items() if name != key}
        assert not validator.is_valid(rest), key


def test_real_summaries_have_the_documented_keys_and_no_others(summaries: dict[str, Any]) -> None:
    told = {key for key, _, _ in documented(PAGE)}
    found = {name: set(keys(summary, SCHEMA)) for name, summary in summaries.items()}
    assert set().union(*found.values()) == told
    assert not any(key.startswith("score") for key in found["plain"])
    assert summaries["plain"]["schema_version"] == SCHEMA_VERSION


def test_the_schema_is_made_from_the_page() -> None:
    assert (ROOT / "docs" / "summary.schema.json").read_text() == as_text(schema_of(PAGE)), (
        "run: python -m benchmarks.summary_schema"
    )
    assert f"`schema_version` is {SCHEMA_VERSION}" in PAGE


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    for name in ("jobs", "sample_data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    told = [
        shlex.split(line.removeprefix("$ "))
        for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    for words in told[:2]:
        code, stdout, stderr = command(*words[1:], cwd=tmp_path)
        assert code == 0, stderr
    summary = json.loads((tmp_path / "runs/ticket_triage.simulated/summary.json").read_text())
    assert json.loads(stdout) | {"score": summary["score"]} == (
        {"running": False, "waiting": None, "damaged": 0, **summary}
    )
    done = subprocess.run(
        [sys.executable, *told[2][1:]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"0 {summary['cost_usd']['total']}\n"
