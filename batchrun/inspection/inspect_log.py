"""The log format of inspect_ai: a zip of JSON files, which its viewer opens (`inspect view`).

Field names are those of `inspect_ai.log.EvalLog`, version 2. Each row is a sample of the log. If a row has
several answers, the first is shown, with the scores of the row.
"""

from __future__ import annotations

import zipfile
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import __version__, checkpoint, output
from batchrun.evaluation.metrics import interval, mean_score
from batchrun.inspection.transcripts import open_transcripts
from batchrun.records import Ending, Status
from batchrun.report.formatting import moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from batchrun.evaluation import ScoreTotals
    from batchrun.inspection.transcripts import OpenTranscripts, Transcript
    from batchrun.pricing.totals import RunTotals


VERSION = 2
ONLY_SCORER = "score"  # the name of a scorer without one
_STOP_REASONS = {
    Ending.STOP: "stop",
    Ending.LENGTH: "max_tokens",
    Ending.TOOL_CALLS: "tool_calls",
    Ending.REFUSAL: "content_filter",
    Ending.FILTERED: "content_filter",
}
_SUMMARY_KEYS = ("id", "epoch", "input", "target", "scores", "metadata", "error", "model_usage")


def export_inspect_log(directory: Path, to: Path) -> Path:
    """Write a run as a log of inspect_ai. Sends nothing.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone, or another file is there.
        OutputError: when the file cannot be written, or the input has changed.
    """
    output.refuse_foreign_log(to, "--to")
    with (
        open_transcripts(directory) as run,
        output.replacing(to, in_run_directory=False) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        totals = checkpoint.totals(run.store)
        scores = {name: checkpoint.score_totals(run.store, name) for name in run.scorers}
        spec = _spec(run, totals)
        _write(archive, "_journal/start.json", {"version": VERSION, "eval": spec, "plan": _PLAN})
        summaries = []
        for row in run.read():
            sample = _sample(row, run.job.request.model)
            name = blake2b(sample["id"].encode(), digest_size=8).hexdigest()
            is_plain = sample["id"].replace("-", "").replace("_", "").isalnum()
            _write(archive, f"samples/{sample['id'] if is_plain else name}_epoch_1.json", sample)
            summaries.append(_summary(sample))
        _write(archive, "summaries.json", summaries)
        _write(archive, "header.json", _header(spec, totals, scores))
    return to


_PLAN: dict[str, Any] = {"name": "plan", "steps": [], "config": {}}


def _write(archive: zipfile.ZipFile, name: str, value: object) -> None:
    archive.writestr(name, orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))


def _spec(run: OpenTranscripts, totals: RunTotals) -> dict[str, Any]:
    request, first = run.job.request, totals.executions[0]["started_us"] if totals.executions else 0
    numbers = {"temperature", "top_p", "top_k", "max_tokens", "seed"} & request.parameters.keys()
    return {
        "eval_id": blake2b(f"{totals.name}:{first}".encode(), digest_size=11).hexdigest(),
        "run_id": "",
        "created": moment(first),
        "task": totals.name,
        "task_id": totals.name,
        "task_version": 0,
        "task_attribs": {},
        "task_args": {},
        "task_args_passed": {},
        "solver_args_passed": {},
        "dataset": {
            "name": run.job.input.path,
            "location": run.job.input.path,
            "samples": totals.total,
        },
        "model": f"{request.provider_name}/{request.model}",
        "model_generate_config": {
            name: value
            for name in sorted(numbers)
            if isinstance(value := request.parameters[name], int | float)
        },
        "model_args": {},
        "config": {"epochs": 1},
        "packages": {"batchrun": __version__},
    }


def _sample(row: Transcript, model: str) -> dict[str, Any]:
    answer, turns = row.answer, row.turns or ()
    messages = [
        {"id": f"{n}", "role": role, "content": text} for n, (role, text) in enumerate(turns)
    ]
    message = {"id": "answer", "role": "assistant", "content": answer["response"] or ""}
    model = answer["model"] or model
    is_answered = answer["status"] == Status.SUCCEEDED
    usage = _usage(answer["input_tokens"], answer["output_tokens"])
    stop = _STOP_REASONS.get(answer["ending"], "unknown")
    choices = [{"message": message, "stop_reason": stop}] if is_answered else []
    sample = {
        "id": row.item.custom_id,
        "epoch": 1,
        "input": messages or "",
        "target": next((one["expected"] or "" for one in row.scores.values()), ""),
        "messages": [*messages, message] if is_answered else messages,
        "output": {
            "model": model,
            "choices": choices,
            "completion": answer["response"] or "",
            **({"usage": usage, "time": answer["latency_s"]} if is_answered else {}),
        },
        "scores": {
            name or ONLY_SCORER: {
                "value": one["score"],
                "answer": one["predicted"],
                "explanation": one["reason"],
                "history": [],
            }
            for name, one in row.scores.items()
            if one["score"] is not None and (name or len(row.scores) == 1)
        },
        "metadata": _json(row.item.values),
        "store": {},
        "events": [],
        "model_usage": {model: usage} if is_answered else {},
        "attachments": {},
    }
    if not is_answered:
        reason = f"{answer['error_type'] or answer['status']}: {answer['error_message'] or ''}"
        sample["error"] = {"message": reason, "traceback": "", "traceback_ansi": ""}
    return sample


def _json(values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    return orjson.loads(orjson.dumps(dict(values), default=str))


def _usage(sent: int | None, received: int | None) -> dict[str, int]:
    sent, received = sent or 0, received or 0
    return {"input_tokens": sent, "output_tokens": received, "total_tokens": sent + received}


def _summary(sample: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: sample[key] for key in _SUMMARY_KEYS if key in sample}
    if "error" in sample:
        found["error"] = sample["error"]["message"]
    return {**found, "completed": "error" not in sample, "message_count": len(sample["messages"])}


def _header(
    spec: Mapping[str, Any], totals: RunTotals, scores: Mapping[str, ScoreTotals]
) -> dict[str, Any]:
    last = totals.executions[-1] if totals.executions else None
    ended = 0 if last is None else last["started_us"] + int(last["wall_time_s"] * 1e6)
    usage = {one.model: _usage(one.input_tokens, one.output_tokens) for one in totals.models}
    return {
        "version": VERSION,
        "status": "success" if not totals.pending else "cancelled",
        "eval": spec,
        "plan": _PLAN,
        "results": {
            "total_samples": totals.total,
            "completed_samples": totals.succeeded,
            "scores": [_score(name or ONLY_SCORER, one) for name, one in scores.items()],
        },
        "stats": {
            "started_at": spec["created"],
            "completed_at": moment(ended),
            "model_usage": usage,
        },
    }


def _score(name: str, totals: ScoreTotals) -> dict[str, Any]:
    return {
        "name": name,
        "scorer": name,
        "params": {},
        "scored_samples": totals.scored,
        "unscored_samples": totals.unscored,
        "metrics": {key: {"name": key, "value": value} for key, value in _metrics(totals)},
    }


def _metrics(totals: ScoreTotals) -> Iterator[tuple[str, float]]:
    mean, bounds = mean_score(totals), interval(totals)
    if mean is not None:
        yield "accuracy" if totals.is_binary else "mean", mean
    if bounds is not None:
        yield "ci95_low", bounds[0]
        yield "ci95_high", bounds[1]
