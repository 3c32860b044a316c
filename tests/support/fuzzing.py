"""What the fuzz tests share: how many examples, the command and its exit codes, jobs as TOML."""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.conftest import DEADLINE_S, command

if TYPE_CHECKING:
    from tests.support.provider import Provider

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def fuzzed(count: int) -> settings:
    """The same examples each time, unless more are asked for."""
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def checked(
    *arguments: str | Path, codes: tuple[int, ...] = (0, 2, 3, 4, 6)
) -> tuple[int, str, str]:
    """Run the command; it may refuse, fail rows or stop, and nothing else."""
    code, stdout, stderr = command(*arguments)
    assert code in codes, stderr
    assert "Traceback" not in stderr
    assert "Error(" not in stderr
    if code == 2:
        assert stderr.startswith(("error: ", "Error: ", "Usage: "))
        assert len(stderr) < 20_000
    return code, stdout, stderr


def toml(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def as_job_file(document: dict[str, dict[str, Any]]) -> str:
    lines = [f"{key} = {toml(value)}" for key, value in document.get("", {}).items()]
    for section, table in document.items():
        if section:
            lines += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines)


def run_over(
    provider: Provider,
    name: str,
    content: bytes,
    *,
    timeout_s: float = DEADLINE_S,
    **request: Any,
) -> int:
    """Run a job over a table of this content; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        document = {
            "input": {"path": name},
            "request": {
                "base_url": provider.url,
                "api_key_env": "TEST_KEY",
                "model": "m",
                "prompt": "{{ row }}",
                "max_tokens": 9,
                **request,
            },
            "retry": {"max_attempts": 1, "max_wait_s": 0.001, "timeout_s": timeout_s},
            "output": {"files": ["r.parquet", "r.csv", "r.jsonl"], "prefix": "batchrun_"},
        }
        Path(folder, name).write_bytes(content)
        job = Path(folder, "job.toml")
        job.write_text(as_job_file(document))
        return checked("run", job, "--quiet")[0]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from([2**63, -(2**70), 10**400, "text", "tool_use", "stop", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
