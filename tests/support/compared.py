"""Reports of runs side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.conftest import command
from tests.support.provider import Call, Reply, answer, refusal, serving
from tests.support.reports import HOSTILE, LABELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


MODELS = ("one", "<i>two", "three")


CHOICE = (
    f'[score]\nexpected = "{{{{ label }}}}"\nmatch = "choice"\nchoices = {json.dumps(LABELS)}\n'
)


def decide(call: Call) -> Reply:
    """The first is always right; the second wrong in row 1, worded otherwise in 2; the third fails in 1."""
    n, model = int(call.prompt), MODELS.index(call.json["model"])
    if model == 2 and n == 1:
        return refusal(400, "invalid_request_error", f"{HOSTILE[0]} refused")
    label = LABELS[(n + (model == 1 and n == 1)) % 3]
    worded = f" {HOSTILE[n % 5]} of {model}" if n == 2 else ""
    return answer(call, f"{label}{worded}")


def matrix(
    folder: Path,
    *,
    rows: int = 12,
    samples: int = 1,
    score: str = CHOICE,
    request: str = "",
    models: tuple[str, ...] = MODELS,
    decide: Callable[[Call], Reply] = decide,
    out: str = "out",
) -> Path:
    """Run a matrix of models; return its directory."""
    lines = [
        json.dumps({"id": f"r{n}{HOSTILE[n % 5]}", "n": n, "label": LABELS[n % 3]})
        for n in range(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with serving(decide) as provider:
        (folder / "job.toml").write_text(
            f"""[input]
path = "rows.jsonl"
id = "id"
[request]
format = "chat"
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = ""
prompt = "{{{{ n }}}}"
max_tokens = 50
samples = {samples}
{request}
[price]
input = 1.0
output = 2.0
[matrix]
model = {json.dumps(models)}
{score}[output]
dir = "{out}"
"""
        )
        code, _, stderr = command("run", folder / "job.toml", "--quiet")
    assert code in {0, 3}, stderr
    return folder / out
