"""docs/formats.md shows what one job becomes in either format, and what it shows is true.

After a change that is meant: `python -m tests.formats.test_formats_page` writes the page anew.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from batchrun.inspection.loading import load_job
from batchrun.inspection.previews import preview
from tests.conftest import ROOT

if TYPE_CHECKING:
    from batchrun.records import FormatName

JOB = ROOT / "jobs" / "showcase.toml"
PAGE = ROOT / "docs" / "formats.md"

_PAGE = """\
# Wire formats

This page shows how a job becomes a request in each wire format, and how responses are read. The example is
`jobs/showcase.toml`, with a system prompt, several turns, an image, a tool, thinking and a stop sequence:

```toml
{job}```

`batchrun preview jobs/showcase.toml -n 1` prints the request of the first row, as shown below. If a job uses a feature
that its format does not support, the job is refused; nothing is dropped silently.

| feature | messages | chat |
|---|---|---|
| system prompt | `system` | a `system` message |
| stop sequences | `stop_sequences` | `stop` |
| images | `image` blocks | `image_url` |
| documents | `document` blocks | `file` parts, or text |
| tools | `input_schema`, `tool_choice` `any` | `function` with `parameters`, `tool_choice` `required` |
| thinking | `thinking` with a budget | the `-thinking` model of a gateway |
| structured output | `output_config.format` | `response_format` |
| API key | `x-api-key` | `authorization: Bearer` |

## `POST /v1/messages`

```json
{messages}
```

## `POST /v1/chat/completions`

```json
{chat}
```
"""


def body(wire_format: FormatName) -> dict[str, Any]:
    (line,) = preview(load_job(JOB, {"request.format": wire_format}), 1)
    found: dict[str, Any] = json.loads(line)["body"]
    return found


def page() -> str:
    bodies = {name: json.dumps(body(name), indent=2) for name in ("messages", "chat")}
    return _PAGE.format(job=JOB.read_text(encoding="utf-8"), **bodies)


def rest() -> str:
    """What stands behind the examples, and is written by hand."""
    _, mark, found = PAGE.read_text(encoding="utf-8").partition("\n## How answers are read\n")
    return mark + found


def test_the_page_shows_what_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page() + rest()


@pytest.mark.parametrize(
    ("wire_format", "params"),
    [
        ("messages", MessageCreateParamsNonStreaming),
        ("chat", CompletionCreateParamsNonStreaming),
    ],
)
def test_the_official_sdks_accept_it(wire_format: FormatName, params: Any) -> None:
    TypeAdapter(params).validate_python(body(wire_format))


if __name__ == "__main__":
    PAGE.write_text(page() + rest(), encoding="utf-8")
