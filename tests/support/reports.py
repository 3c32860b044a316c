"""Reports of finished runs."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING

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


class Parsed(HTMLParser):
    """Which elements there are, with which attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.parts: list[str] = []
        self.feed(page)
        self.text = "".join(self.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.parts.append(data)
