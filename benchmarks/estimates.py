"""How often the intervals of `batchrun estimate` hold: 40 jobs, estimated and then run.

A server on loopback answers and counts the tokens with the tokenizer of the model, see
`benchmarks.vocabularies`, and the frames that providers put around messages. Each job is estimated before
anything is sent, and then run. Jobs of 60 rows or more are estimated again after a sample of 20 rows; that
estimate is compared with what the other rows take.

Usage: python -m benchmarks.estimates [--exact]   (about three minutes, 11 MB of vocabularies)

Without --exact, OpenAI's models are estimated from characters, too, as without the extra `tokens`.
The texts are none of those that the rates were fitted to. The length of answers is what is made up here:
short and long, of equal and of very different lengths, within `max_tokens`.
"""

from __future__ import annotations

import base64
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import polars as pl

from batchrun import Job, RunOptions, estimate, run_job
from batchrun.estimation import tokenizers
from batchrun.estimation.image_tokens import claude_tokens, tile_tokens
from benchmarks.vocabularies import counter, fetch
from tests.support.png_files import png
from tests.support.provider import Call, Reply, answer, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchrun.estimation import Estimate

ROOT = Path(__file__).parent.parent
SAMPLE, ROWS_TO_SAMPLE = 20, 60
USD_IN, USD_OUT = 1.0, 5.0
# A model, its tokenizer, tokens of a message and of a request around the texts. Those of further messages of
# Claude are not known; four is what other providers take.
MODELS = (
    ("claude-haiku-4-5", "claude 4.5", 4, 3),
    ("gpt-4o", "o200k_base", 4, 3),
    ("claude-opus-4-8", "claude 4.8", 4, 2),
    ("llama-3.3-70b", "llama 3", 5, 5),
    ("gpt-4", "cl100k_base", 4, 3),
    ("qwen3-32b", "qwen", 5, 3),
    ("deepseek-chat", "deepseek", 1, 2),
    ("our-own-model", "llama 3", 5, 5),
)


@dataclass
class Case:
    """A job: its rows, `max_tokens`, and the length of an answer for a random generator."""

    name: str
    texts: list[Any]
    most: int
    length: Callable[[random.Random], float]
    system: str | None = None
    column: str = "prompt"


@dataclass
class Billed:
    """What the server counted, and how long it waits before it answers."""

    input: int = 0
    output: int = 0
    delay_s: float = 0.0


@dataclass
class Held:
    """For one kind of figure: whether each interval held, and its width by what was expected."""

    holds: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, low: float, expected: float, high: float, real: float) -> bool:
        """Add an interval and what it is compared with."""
        self.holds.append(low <= real <= high)
        self.widths.append((high - low) / expected if expected else 0.0)
        return self.holds[-1]

    def __str__(self) -> str:
        width = statistics.median(self.widths)
        return f"{sum(self.holds)} of {len(self.holds)} hold, median width {width:.0%}"


def reply_to(call: Call, case: Case, billed: Billed) -> Reply:
    """Answer a request, with the usage that the tokenizer of its model counts."""
    body = call.json
    tokenizer, each, once = next(rest for model, *rest in MODELS if model == body["model"])
    messages = [{"content": body["system"]}] if body.get("system") else []
    messages += body["messages"]
    taken = once + each * len(messages)
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            is_text = block["type"] == "text"
            taken += counter(tokenizer)(block["text"]) if is_text else _image(tokenizer)
    dice = random.Random(crc32(call.body))
    given = max(1, min(round(case.length(dice)), case.most))
    billed.input, billed.output = billed.input + taken, billed.output + given
    said = json.loads(answer(call).body)
    names = ("input_tokens", "output_tokens")
    if not call.path.endswith("/messages"):
        names = ("prompt_tokens", "completion_tokens")
    said["usage"] = dict(zip(names, (taken, given), strict=True))
    return Reply(body=json.dumps(said).encode(), delay_s=billed.delay_s * dice.uniform(0.5, 1.5))


def _image(tokenizer: str) -> int:
    width, height = SIZE
    by = claude_tokens if tokenizer.startswith("claude") else tile_tokens
    return round(by(width, height))


SIZE = (800, 600)


def label(dice: random.Random) -> float:
    """Return the tokens of a label; likewise those below of other answers."""
    return dice.choice((2, 3, 3, 4, 6))


def summary(dice: random.Random) -> float:
    """Some ninety tokens."""
    return dice.lognormvariate(4.5, 0.4)


def essay(dice: random.Random) -> float:
    """About seven hundred tokens."""
    return dice.gauss(700, 120)


def mixed(dice: random.Random) -> float:
    """From a few tokens to hundreds."""
    return dice.lognormvariate(4.0, 1.0)


def longest(dice: random.Random) -> float:
    """Many end at `max_tokens`."""
    return dice.uniform(900, 2_000)


def cases() -> Iterator[Case]:
    """Yield the 40 jobs."""
    dice = random.Random(17)
    table = pl.read_csv(ROOT / "sample_data" / "tickets.csv")
    texts = [f"{row['subject']}\n{row['body']}" for row in table.iter_rows(named=True)]
    by_language: dict[str, list[str]] = {}
    for language, text in zip(table["language"], texts, strict=True):
        by_language.setdefault(language, []).append(text)
    task = "Classify this ticket. Answer with one label."
    for language, found in sorted(by_language.items()):
        if len(found) == 12:
            yield Case(f"tickets, {language}", found, 1_024, label, task)
    yield Case("tickets, en", by_language["en"], 20, label, task)
    yield Case("tickets, en, summaries", by_language["en"][:120], 300, summary)
    rare = [found[0] for found in by_language.values() if len(found) == 1]
    yield Case("six more languages, one row each", rare, 500, summary)
    yield Case("eighteen languages", texts, 400, mixed)
    english = " ".join(by_language["en"])
    yield Case("one row", [english[:2_000]], 800, essay)
    yield Case("three long rows", [english[n::3] and english * 2 for n in range(3)], 1_000, essay)
    words = english.split()
    yield Case("many short rows", [f"{word} {n}" for n, word in enumerate(words[:400])], 50, label)
    yield Case("a long system prompt", words[:80], 100, summary, english[:8_000])
    for folder, pattern in (
        ("batchrun", "*.py"),
        ("docs", "*.md"),
        ("batchrun/report", "*.[jc]*s"),
    ):
        files = [path.read_text("utf-8") for path in sorted((ROOT / folder).rglob(pattern))]
        yield Case(
            f"{folder}/**/{pattern}", [text[:6_000] for text in files if text][:150], 2_000, longest
        )
    yield Case(
        "jobs/*.toml",
        [path.read_text("utf-8") for path in (ROOT / "jobs").glob("*.toml")],
        600,
        essay,
    )
    products = pl.read_parquet(ROOT / "sample_data" / "products.parquet")
    flat = products.select(pl.exclude("tags", "dimensions", "materials"))
    yield Case(
        "JSON objects",
        [json.dumps(row, default=str) for row in products.to_dicts()[:200]],
        300,
        summary,
    )
    yield Case(
        "indented JSON",
        [json.dumps(row, default=str, indent=2) for row in products.to_dicts()[:100]],
        300,
        mixed,
    )
    yield Case("CSV", [flat[n : n + 10].write_csv() for n in range(0, 600, 10)], 500, summary)
    yield Case(
        "TSV", [flat[n : n + 40].write_csv(separator="\t") for n in range(0, 600, 40)], 500, mixed
    )
    lines = [" | ".join(str(each) for each in row) for row in flat.rows()]
    yield Case(
        "Markdown tables",
        ["|" + "|\n|".join(lines[n : n + 5]) + "|" for n in range(0, 600, 5)],
        200,
        summary,
    )
    yield Case(
        "word problems",
        pl.read_csv(ROOT / "sample_data" / "word_problems.csv")["question"].to_list(),
        500,
        mixed,
    )
    prices = [
        "\n".join(f"{dice.gauss(0, 10 ** dice.randrange(5)):.4f}" for _ in range(60))
        for _ in range(70)
    ]
    yield Case("columns of numbers", prices, 40, label)
    yield Case(
        "integers",
        [
            " ".join(str(dice.getrandbits(dice.randrange(1, 40))) for _ in range(100))
            for _ in range(60)
        ],
        40,
        label,
    )
    yield Case(
        "base64", [base64.b64encode(dice.randbytes(900)).decode() for _ in range(60)], 100, label
    )
    yield Case(
        "a data URL in a sentence",
        [
            f"What is in data:image/gif;base64,{base64.b64encode(dice.randbytes(300)).decode()} ?"
            for _ in range(80)
        ],
        100,
        summary,
    )
    yield Case(
        "hashes",
        ["\n".join(dice.randbytes(20).hex() for _ in range(9)) for _ in range(40)],
        60,
        label,
    )
    names = [word.strip(".,:?!").lower() for word in words if word.isascii()]
    urls = [
        f"https://{dice.choice(names)}.example.com/{dice.choice(names)}/{dice.choice(names)}?page={dice.randrange(99)}&sort={dice.choice(names)}"
        for _ in range(900)
    ]
    yield Case("addresses", ["\n".join(urls[n : n + 9]) for n in range(0, 900, 9)], 100, label)
    parts = "2026-03-{:02}T{:02}:{:02}:07Z {} [{}-{}] {} took {} ms"
    logs = [
        parts.format(
            dice.randrange(1, 29), dice.randrange(24), dice.randrange(60), dice.choice(("INFO", "WARN")),
            dice.choice(names), dice.randrange(20), " ".join(dice.choices(names, k=6)), dice.randrange(9_999),
        )
        for _ in range(900)
    ]  # fmt: skip
    yield Case("log lines", ["\n".join(logs[n : n + 15]) for n in range(0, 900, 15)], 300, mixed)
    emoji = "🙂🎉👍🔥🚀😢🙏"
    yield Case(
        "emoji",
        [
            f"{text[:80]} {dice.choice(emoji)}{dice.choice(emoji)}"
            for text in by_language["en"][:100]
        ],
        60,
        label,
    )
    yield Case(
        "conversations",
        [_turns(by_language["en"][n : n + 5]) for n in range(0, 200, 2)],
        300,
        summary,
        column="messages",
    )
    picture = base64.b64encode(png(*SIZE)).decode()
    for kind in ("a", "b"):
        yield Case(
            f"images, {kind}",
            [f"data:image/png;base64,{picture}" for _ in range(30)],
            200,
            summary,
            column="image",
        )


def _turns(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def job_of(case: Case, model: str, url: str, folder: Path) -> Path:
    """Write a job and its rows; return its path."""
    rows = [{"n": n, case.column: value} for n, value in enumerate(case.texts)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    wire_format = "messages" if model.startswith("claude") else "chat"
    wanted = {
        "prompt": "prompt = '{{ prompt }}'",
        "messages": "messages_column = 'messages'",
        "image": "prompt = 'What is this? {{ n }}'\nimages = '{{ image }}'",
    }[case.column]
    system = "" if case.system is None else f"system = {json.dumps(case.system)}"
    path = folder / "job.toml"
    path.write_text(
        f"""[input]
path = "rows.jsonl"
[request]
format = "{wire_format}"
base_url = "{url}"
api_key_env = ""
model = "{model}"
{wanted}
{system}
max_tokens = {case.most}
[limits]
concurrency = 8
[price]
input = {USD_IN}
output = {USD_OUT}
""",
        "utf-8",
    )
    return path


def measure(case: Case, model: str, url: str, billed: Billed, held: dict[str, Held]) -> None:
    """Estimate a job, run it, and add whether the intervals held."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job.load(job_of(case, model, url, Path(folder)))
        (before,) = estimate(job)
        is_sampled = len(case.texts) >= ROWS_TO_SAMPLE
        billed.delay_s = 0.2 if is_sampled else 0.0
        quiet = RunOptions(quiet=True)
        (after,) = estimate(job, quiet, sample=SAMPLE) if is_sampled else (before,)
        first = (billed.input, billed.output)
        start = time.perf_counter()
        report = run_job(job, quiet)
        minutes = (time.perf_counter() - start) / 60
        assert report.error is None, report.error
        assert report.totals.succeeded == len(case.texts), report.totals
    found = [add(held, "before", before, billed.input, billed.output)]
    if is_sampled:
        rest = (billed.input - first[0], billed.output - first[1])
        found.append(add(held, "sampled", after, *rest))
        time_ = after.duration
        is_in_time = held.setdefault("sampled: time", Held()).add(
            time_.low, time_.expected, time_.high or 0, minutes
        )
        took = f"{60 * time_.low:.1f} to {60 * (time_.high or 0):.1f} s, took {60 * minutes:.1f} s"
        found.append(took if is_in_time else f"{took}: no")
    low, high = before.input.low, before.input.high or 0
    print(
        f"{case.name:34} {model:18} {low:>9,} {high:>9,} {billed.input:>9,}  {'; '.join(found)}",
        flush=True,
    )


def add(held: dict[str, Held], when: str, found: Estimate, taken: int, given: int) -> str:
    """Add the intervals of an estimate; return which did not hold."""
    cost = round((taken * USD_IN + given * USD_OUT) * 10**6)
    real = {"input": taken, "output": given, "cost": cost}
    missed = [
        name
        for name, value in real.items()
        if not held.setdefault(f"{when}: {name}", Held()).add(
            (each := getattr(found, name)).low, each.expected, each.high, value
        )
    ]
    return f"{when}: not {', '.join(missed)}" if missed else f"{when} ok"


def main() -> None:
    """Measure and print a table."""
    fetch()
    if "--exact" not in sys.argv:
        tokenizers.exact_counter = lambda _: None  # type: ignore[assignment]
    held: dict[str, Held] = {}
    made = list(cases())
    print(f"{'job':34} {'model':18} {'input low':>9} {'high':>9} {'real':>9}")
    for number, case in enumerate(made):
        model = MODELS[number % len(MODELS)][0]
        if case.column == "image":
            model = ("claude-haiku-4-5", "gpt-4o")[number % 2]
        billed = Billed()
        with serving(lambda call, c=case, b=billed: reply_to(call, c, b)) as provider:
            measure(case, model, provider.url + "/v1", billed, held)
    print(f"{len(made)} jobs")
    for name, each in held.items():
        print(f"{name:18} {each}")


if __name__ == "__main__":
    main()
