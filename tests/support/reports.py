"""Reports of finished runs."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from tests.conftest import command
from tests.support.provider import Call, Reply, answer, refusal, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "\"><svg onload=document.title='owned'>",
    "</style></textarea><!-- ' & &lt;b&gt; javascript:alert(1)",
    "<iframe src='https://example.com/'></iframe> {{ 7 * 7 }}",
)


LABELS = ("<b>red</b>", "green", "blue")


def decide(call: Call) -> Reply:
    """Right for two of three rows; one in ten fails, with a message that means harm."""
    n = int(call.prompt.split()[0])
    if n % 10 == 9:
        return refusal(400, "invalid_request_error", f"{HOSTILE[n % 5]} in row {n}")
    if n == 8 and not call.seen:
        return refusal(429, "rate_limit_error", "later", retry_after="0")
    label = LABELS[(n + (n % 6 == 0)) % 3]
    return answer(call, f"{label} {HOSTILE[n % 5]} answer{n}")


def run(
    directory: Path, *, rows: int = 60, extra: str = "", decide: Callable[[Call], Reply] = decide
) -> Path:
    """Run a job over rows, score it and write its report; return the run's directory."""
    lines = [
        json.dumps(
            {"id": f"r{n}{HOSTILE[n % 5]}", "n": n, "text": HOSTILE[n % 5], "label": LABELS[n % 3]}
        )
        for n in range(rows)
    ]
    (directory / "rows.jsonl").write_text("\n".join(lines) + "\n")
    with serving(decide) as provider:
        (directory / "job.toml").write_text(
            f"""name = "report of <i>colours"
[input]
path = "rows.jsonl"
id = "id"
[request]
format = "messages"
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = "TEST_KEY"
model = "claude-haiku-4-5-20251001"
prompt = "{{{{ n }}}} {{{{ text }}}} prompt{{{{ n }}}}"
max_tokens = 50
{extra}
[score]
expected = "{{{{ label }}}}"
match = "choice"
choices = {json.dumps(LABELS)}
[output]
dir = "out"
"""
        )
        code, _, stderr = command("run", directory / "job.toml", "--quiet")
    assert code in {0, 3}, stderr
    code, stdout, stderr = command("report", directory / "out")
    assert (code, stdout, stderr) == (0, f"{directory / 'out' / 'report.html'}\n", "")
    return directory / "out"


def index_of(page: str) -> dict[str, Any]:
    """Return what a page knows of its rows: what can be filtered and sorted."""
    (packed,) = re.findall(r'<script type="text/plain" id="index">([^<]*)</script>', page)
    found: dict[str, Any] = _unpacked(packed)
    return found


def rows_of(page: str) -> list[list[Any]]:
    """Return the rows that a page holds: id, prompt, expected value, and the answer of each run."""
    blocks = re.findall(r'<script type="text/plain" class="block">([^<]*)</script>', page)
    return [row for block in blocks for row in _unpacked(block)]


def kinds_of(page: str) -> list[set[str]]:
    """Return the kinds of each row that a page holds."""
    index = index_of(page)
    return [
        {kind for bit, kind in enumerate(index["kinds"]) if mask >> bit & 1}
        for mask in index["kindsOf"]
    ]


def _unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


class Parsed(HTMLParser):
    """Which elements there are, with which attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.parts: list[str] = []
        self._is_code = False
        self.feed(page)
        self.text = "".join(self.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_code = tag in {"script", "style"}
        self.tags[tag] += ("type", "text/plain") not in attrs
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, _tag: str) -> None:
        self._is_code = False

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._is_code:
            self.parts.append(data)
