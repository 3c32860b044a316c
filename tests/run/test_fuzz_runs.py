"""Whatever a run directory holds, and whatever `[score]` asks: an exit code of the command's own.

Exit 1 and a traceback would be bugs. `make fuzz` looks for more, at random.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import resume
from tests.support.fuzzing import as_job_file, checked, fuzzed
from tests.support.provider import Call, Reply, answer, serving

ANSWERS = ["b", "#### 7", '{"a": [1, null]}', "", "\0\x1b[2J é (A) 1,000.5 " + "x" * 500, "yes. no"]
FILES = ["results.parquet", "results.csv", "results.jsonl"]
OUTPUTS = ["checkpoint.db", *FILES, "usage.parquet", "summary.json"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that has run, with answers of many kinds."""
    place = tmp_path_factory.mktemp("finished")

    def decide(call: Call) -> Reply:
        return answer(call, ANSWERS[int(call.prompt) % len(ANSWERS)])

    with serving(decide) as provider:
        request = {
            "base_url": provider.url,
            "api_key_env": "TEST_KEY",
            "model": "m",
            "prompt": "{{ n }}",
            "max_tokens": 9,
        }
        write(place, request, {"expected": "{{ right }}"})
        rows = [{"n": n, "right": ANSWERS[n % 5]} for n in range(12)]
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert resume(place / "job.toml") == 0
    return place


def write(place: Path, request: dict[str, Any], score: dict[str, Any]) -> Path:
    job = place / "job.toml"
    document = {
        "input": {"path": "rows.jsonl"},
        "request": request,
        "score": score,
        "output": {"dir": "out", "files": FILES},
    }
    job.write_text(as_job_file(document), encoding="utf-8", errors="surrogatepass")
    return job


PATTERN_PIECES = st.sampled_from(
    [
        *("(", ")", "[", "]", "{", "}", "*", "+", "?", "|", "^", "$", ".", "\\", "a", "\\d", "\\b"),
        *(
            "(?i)",
            "(?s)",
            "(?P<a>",
            "(?=",
            "(?:",
            "[^",
            "a-z",
            "{9}",
            "{,3}",
            "{1000}",
            "\\1",
            "\\pL",
        ),
        *("\\x{10FFFF}", "\\Q", "\\E", "####", " ", "é", "\0", "\n"),
    ]
)
PATTERNS = st.lists(PATTERN_PIECES, max_size=9).map("".join) | st.text(max_size=12)
EXPECTED = st.sampled_from(
    ["{{ right }}", "{{ n }}", "{{ row }}", "{{ [right, n] }}", "7", "{{ gone }}", "{{ n / 0 }}"]
)


@fuzzed(40)
@given(
    expected=EXPECTED | PATTERNS,
    match=st.sampled_from(
        ["exact", "casefold", "contains", "regex", "number", "json", "choice", "x", None]
    ),
    pattern=st.none() | PATTERNS,
    choices=st.none() | st.lists(st.text(max_size=3) | st.sampled_from("AB"), max_size=4),
)
def test_any_score(
    finished: Path,
    expected: str,
    match: str | None,
    pattern: str | None,
    choices: list[str] | None,
) -> None:
    given_keys = {"expected": expected, "match": match, "answer": pattern, "choices": choices}
    score = {key: value for key, value in given_keys.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        request = {"model": "m", "prompt": "{{ n }}", "max_tokens": 9}
        job = write(Path(folder), request, score)
        out = shutil.copytree(finished / "out", Path(folder, "out"))
        if checked("score", out, "--job", job, "--json", codes=(0, 2))[0] == 0:
            assert checked("verify", out)[0] == 0


def damaged(content: bytes, at: float, new: bytes, cut: int) -> bytes:
    place = int(at * len(content))
    return content[:place] + new + content[place + cut :]


@fuzzed(40)
@given(
    name=st.sampled_from(OUTPUTS),
    at=st.floats(0, 1, exclude_max=True),
    new=st.binary(max_size=20) | st.integers(0, 255).map(lambda byte: bytes([byte]) * 3_000),
    cut=st.sampled_from([0, 1, 4, 20, 3_000, 10**9]),
)
def test_any_damage_to_a_run_directory(
    finished: Path, name: str, at: float, new: bytes, cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = shutil.copytree(finished / "out", Path(folder, "out"))
        file = out / name
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, at, new, cut))
        checked("verify", out, codes=(0, 5))
        if name == "checkpoint.db":
            for other in ("status", "export", "score", "report"):
                checked(other, out, codes=(0, 2, 5, 6))
