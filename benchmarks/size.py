"""Measure the size of the code, and how much of it one row passes through.

    python -m benchmarks.size [FOLDER ...]

Each FOLDER is a checkout, for example of an earlier commit; default: this one. Start-up times of
several checkouts are measured alternately.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STARTS = 20
FEW, MANY = 2, 22  # rows; one at a time
STARTED = {
    "batchrun --help": ["-m", "batchrun", "--help"],
    "import batchrun": ["-c", "import batchrun"],
}
JOB = """
[input]
path = "in.csv"
[request]
format = "messages"
base_url = "{url}"
api_key_env = ""
model = "claude-haiku-4-5-20251001"
prompt = "{{{{ text }}}}"
max_tokens = 10
[limits]
concurrency = 1
[output]
dir = "run"
"""


def trace(folder: Path, rows: int, refusals: int) -> None:
    """Run rows, each after some refusals; print how often each function of batchrun was called."""
    import importlib.util
    import threading

    import batchrun
    import batchrun.cli

    is_old = importlib.util.find_spec("tests.support") is None
    provider = importlib.import_module("tests.provider" if is_old else "tests.support.provider")
    package = str(Path(batchrun.__file__).parent)
    calls: Counter[str] = Counter()

    def reply(call: object) -> object:
        if call.seen >= refusals:
            return provider.answer(call)
        body = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}'
        return provider.Reply(429, body, {"retry-after": "0.05"})

    def profile(frame: object, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package):
            calls[f"{code.co_filename[len(package) + 1 :]}:{code.co_qualname}"] += 1

    (folder / "in.csv").write_text("text\n" + "".join(f"hello {n}\n" for n in range(rows)))
    with provider.serving(reply) as server:
        (folder / "job.toml").write_text(JOB.format(url=server.url))
        threading.setprofile(profile)
        sys.setprofile(profile)
        arguments = ["run", str(folder / "job.toml"), "--quiet"]
        code = batchrun.cli.cli.main(arguments, standalone_mode=False)
        sys.setprofile(None)
    print(json.dumps({"code": code, "calls": calls}))


def passed_through(checkout: Path) -> dict[str, str]:
    """Return the files and functions that are called once more for each further row, and 429."""
    few, many = _calls(checkout, FEW, 0), _calls(checkout, MANY, 0)
    row = {name for name in many if many[name] - few[name] >= MANY - FEW}
    refused = _calls(checkout, MANY, 1)
    refusal = {name for name in refused if refused[name] - many[name] >= MANY}
    found = {"one row": row, "one 429": refusal, "one run": set(many)}
    return {
        name: f"{len({each.partition(':')[0] for each in names})} files, {len(names)} functions"
        for name, names in found.items()
    }


def _calls(checkout: Path, rows: int, refusals: int) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [__file__, "--trace", folder, str(rows), str(refusals)]
        found = json.loads(_python(checkout, arguments))
    assert found["code"] == 0
    return Counter({k: n for k, n in found["calls"].items() if "simulator" not in k})


def size(checkout: Path) -> dict[str, object]:
    """Count lines, files, entries and arguments of a checkout."""
    package = checkout / "batchrun"
    files = sorted(package.rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    arguments = sorted(_arguments(node) for node in functions if node.name == "__init__")
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    tests = [len(path.read_text().splitlines()) for path in (checkout / "tests").rglob("*.py")]
    return {
        "entries at the top of batchrun/": sum(e.name != "__pycache__" for e in package.iterdir()),
        "files": len(files),
        "lines": sum(lines),
        "files under 60 lines": sum(count < 60 for count in lines),
        "longest file": max(lines),
        "functions": len(functions),
        "lines of a function (median, p95, longest)": (
            statistics.median(lengths),
            lengths[len(lengths) * 95 // 100],
            lengths[-1],
        ),
        "constructors with more than 6 arguments": sum(count > 6 for count in arguments),
        "most constructor arguments": arguments[-1],
        "files and lines of tests": (len(tests), sum(tests)),
        **passed_through(checkout),
    }


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1  # without self


def starts(checkouts: list[Path]) -> None:
    """Print the median start-up times, measured alternately."""
    for name, arguments in STARTED.items():
        times: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
        for _ in range(STARTS):
            for checkout in checkouts:
                start = time.perf_counter()
                _python(checkout, arguments)
                times[checkout].append(time.perf_counter() - start)
        for checkout, found in times.items():
            print(f"{checkout}: {name}: {statistics.median(found) * 1000:.0f} ms")


def _python(checkout: Path, arguments: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def main() -> None:
    """Measure."""
    if sys.argv[1:2] == ["--trace"]:
        trace(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    checkouts = [Path(each).resolve() for each in sys.argv[1:]] or [Path(__file__).parent.parent]
    for checkout in checkouts:
        print(checkout)
        for name, value in size(checkout).items():
            print(f"  {name}: {value}")
    starts(checkouts)


if __name__ == "__main__":
    main()
