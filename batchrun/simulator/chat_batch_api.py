"""OpenAI's files and batches, `/v1/files` and `/v1/batches`: what they look like, and what answers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import anyio.to_thread
import orjson

from batchrun.simulator.batch_processing import (
    BatchProcessor,
    BatchShape,
    Content,
    page_size,
    paged,
    uploaded,
)
from batchrun.simulator.batch_store import Stage, StoredBatch, StoredFile
from batchrun.simulator.calls import Fault, RefusedError
from batchrun.simulator.http_server import HttpReply
from batchrun.simulator.provider import decode
from batchrun.simulator.uploads import read_form, read_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchrun.simulator.calls import Json, SimulatedAnswer, SimulatedFormat
    from batchrun.simulator.http_server import HttpCall

_ENDPOINTS = ("/v1/chat/completions", "/chat/completions")
_MOST_ROWS = 50_000
_LIFE_S = 24 * 3600
_STATUS = {
    Stage.VALIDATING: "validating",
    Stage.RUNNING: "in_progress",
    Stage.FINALIZING: "finalizing",
    Stage.DUE: "finalizing",
    Stage.CANCELING: "cancelling",
    Stage.FAILED: "failed",
}
_EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


class _WrongFile(Exception):
    """A file that cannot be a batch: code, message and line."""

    def __init__(self, code: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.problem = (code, message, line)


class SimulatedChatBatches(BatchShape):
    """`/v1/files` and `/v1/batches`.

    Args:
        processor: keeps batches and files.
        wire: the format of their requests.
    """

    name = "chat"
    tier = "default"

    def __init__(self, processor: BatchProcessor, wire: SimulatedFormat) -> None:
        self._processor = processor
        self.wire: SimulatedFormat = wire
        self.routes = {
            "/files": {"POST": self._upload, "GET": self._list_files},
            "/files/{id}": {"GET": self._get_file, "DELETE": self._delete_file},
            "/files/{id}/content": {"GET": self._content},
            "/batches": {"POST": self._create, "GET": self._list},
            "/batches/{id}": {"GET": self._get},
            "/batches/{id}/cancel": {"POST": self._cancel},
        }

    async def _upload(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        store, upload = self._processor.store, uploaded(call)
        number = f"{self._processor.now():.6f} {len(store.files())}".encode()
        file_id = f"file-sim{blake2b(number, digest_size=10).hexdigest()}"
        content_type = call.headers.get(b"content-type", b"").decode("latin-1")

        def take() -> dict[str, str]:
            with store.content(f"{file_id}.content", "wb") as file:
                return read_form(upload, content_type, file)

        fields = await anyio.to_thread.run_sync(take)
        for field, name in (("filename", "file"), ("purpose", "purpose")):
            if not fields.get(field):
                raise RefusedError(Fault.MISSING, "Field required", name)
        file = self._keep_file(file_id, fields["filename"], fields["purpose"])
        return _json_reply(_file_json(file))

    def _keep_file(self, file_id: str, filename: str, purpose: str) -> StoredFile:
        size = self._processor.store.path(f"{file_id}.content").stat().st_size
        return self._processor.store.keep_file(
            StoredFile(
                id=file_id,
                filename=filename,
                purpose=purpose,
                created=self._processor.now(),
                size=size,
            )
        )

    async def _list_files(self, _call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        found = [_file_json(file) for file in self._processor.store.files()]
        return _json_reply({"object": "list", "data": found, "has_more": False})

    async def _get_file(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        return _json_reply(_file_json(self._processor.store.file(_id(call))))

    async def _delete_file(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        file = self._processor.store.file(_id(call))
        self._processor.store.drop_file(file)
        return _json_reply({"id": file.id, "object": "file", "deleted": True})

    async def _content(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        file = self._processor.store.file(_id(call))
        return self._processor.download(f"{file.id}.content", "application/octet-stream")

    async def _create(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        asked, processor = decode(call.body or b""), self._processor
        _check_creation(asked)
        file = processor.store.file(asked["input_file_id"])
        if file.purpose != "batch":
            raise RefusedError(Fault.INVALID, "must have the purpose 'batch'.", "input_file_id")
        draws = processor.draws("create", file.id.encode())
        processor.check_rate(draws)
        batch_id = f"batch_sim_{processor.new_id(self, file.id.encode())}"
        problem, content = await anyio.to_thread.run_sync(self._take, batch_id, file, asked)
        if problem is None and processor.exceeds(self, content):
            message = "Enqueued token limit reached for this model, as simulated."
            problem = ("token_limit_exceeded", message, None)
        batch = processor.new_batch(self, batch_id, content)
        batch = processor.store.keep(batch, asked=asked, problem=problem)
        lost = draws.share() < processor.provider.config.lost_create_rate
        return replace(_json_reply(self._json(batch)), lost=lost)

    def _take(
        self, batch_id: str, file: StoredFile, asked: Json
    ) -> tuple[tuple[str, str, int | None] | None, Content]:
        """Check and store the requests of a batch; it runs in a thread of its own."""
        processor = self._processor
        with processor.store.content(f"{file.id}.content") as content:
            try:
                lines = _checked(read_lines(content), asked["endpoint"])
                return None, processor.write_requests(batch_id, lines)
            except _WrongFile as wrong:
                return wrong.problem, Content(0, 0, "", file.id.encode())

    async def _list(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        await self._processor.settle(self)
        after = call.query.get("after")
        start = None if after is None else (lambda batch: batch.id == after)
        found = self._processor.store.newest(self.name)
        page, has_more = paged(found, start, page_size(call.query, 20, 100))
        return _json_reply(
            {
                "object": "list",
                "data": [self._json(batch) for batch in page],
                "first_id": page[0].id if page else None,
                "last_id": page[-1].id if page else None,
                "has_more": has_more,
            }
        )

    async def _get(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        return _json_reply(self._json(await self._settled(call)))

    async def _cancel(self, call: HttpCall, _request_id: str, _sent: ExitStack) -> HttpReply:
        batch = await self._settled(call)
        if batch.stage(self._processor.now()) in {Stage.ENDED, Stage.FAILED}:
            status = self._status(batch)
            raise RefusedError(Fault.INVALID, f"Cannot cancel a batch with status '{status}'.")
        if batch.canceled is None:
            batch = self._processor.store.keep(batch, canceled=self._processor.now())
        return _json_reply(self._json(batch))

    async def _settled(self, call: HttpCall) -> StoredBatch:
        await self._processor.settle(self)
        return self._processor.store.batch(self.name, _id(call))

    def _status(self, batch: StoredBatch) -> str:
        stage = batch.stage(self._processor.now())
        if stage is not Stage.ENDED:
            return _STATUS[stage]
        if batch.canceled is not None:
            return "cancelled"
        return "completed" if batch.expires_after is None else "expired"

    def _json(self, batch: StoredBatch) -> Json:
        status, life_s = self._status(batch), _LIFE_S
        if batch.expires_after is not None:
            life_s = int(batch.duration_s)
        end = batch.created + batch.duration_s * 0.1 if status == "failed" else batch.ended
        asked = batch.asked
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "model": batch.model or None,
            "errors": _errors(batch) if status == "failed" else None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": status,
            "output_file_id": batch.files.get("output"),
            "error_file_id": batch.files.get("error"),
            "created_at": int(batch.created),
            "in_progress_at": int(batch.created + batch.duration_s * 0.1),
            "expires_at": int(batch.created + life_s),
            "cancelling_at": _seconds(batch.canceled),
            **{
                f"{name}_at": _seconds(end) if status == name else None
                for name in ("completed", "expired", "cancelled", "failed")
            },
            "request_counts": self._counts(batch, status),
            "metadata": asked.get("metadata"),
        }

    def _counts(self, batch: StoredBatch, status: str) -> Json:
        """Return the counts: none before the check, and growing until the end."""
        if status in {"validating", "failed"}:
            return {"total": 0, "completed": 0, "failed": 0}
        done = int(batch.rows * min(batch.progress(self._processor.now()), batch.answered_share))
        counts = batch.counts or {"succeeded": done}
        return {
            "total": batch.rows,
            "completed": counts.get("succeeded", 0),
            "failed": counts.get("errored", 0),
        }

    def answered(self, custom_id: str, answer: SimulatedAnswer) -> Json:
        """Return the line of an answer."""
        return self._line(custom_id, 200, self.wire.completion(answer))

    def refused(self, custom_id: str, refused: RefusedError) -> Json:
        """Return the line of a request that failed."""
        return self._line(custom_id, *self.wire.error(refused, ""))

    def unanswered(self, custom_id: str, outcome: str) -> Json | None:
        """Return the line of a request that expired; canceled ones are in no file."""
        if outcome == "canceled":
            return None
        return self._line(custom_id) | {"response": None, "error": _EXPIRED}

    def _line(self, custom_id: str, status: int = 0, body: Json | None = None) -> Json:
        number = blake2b(custom_id.encode(), digest_size=10).hexdigest()
        response = {"status_code": status, "request_id": f"req_sim_{number}", "body": body}
        return {
            "id": f"batch_req_sim_{number}",
            "custom_id": custom_id,
            "response": response,
            "error": None,
        }

    def write(self, batch: StoredBatch, results: Iterator[tuple[str, bytes]]) -> dict[str, str]:
        """Write answers into one file, and all else into another; a file without lines is none."""
        names = {"output": f"file-sim-out-{batch.id}", "error": f"file-sim-err-{batch.id}"}
        with ExitStack() as opened:
            files = {
                kind: opened.enter_context(self._processor.store.content(f"{name}.content", "wb"))
                for kind, name in names.items()
            }
            for outcome, line in results:
                files["output" if outcome == "succeeded" else "error"].write(line)
            found = {kind: names[kind] for kind, file in files.items() if file.tell()}
        for kind, file_id in found.items():
            self._keep_file(file_id, f"{batch.id}_{kind}.jsonl", "batch_output")
        return found


def _file_json(file: StoredFile) -> Json:
    fields = asdict(file)
    return {
        **{name: fields[name] for name in ("id", "filename", "purpose")},
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None,
        "status": "processed",
        "status_details": None,
    }


def _check_creation(asked: Json) -> None:
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(asked.get(name), str):
            raise RefusedError(Fault.MISSING, "Field required", name)
    if asked["endpoint"] not in _ENDPOINTS:
        message = f"must be one of {', '.join(_ENDPOINTS)}."
        raise RefusedError(Fault.INVALID, message, "endpoint")
    if asked["completion_window"] != "24h":
        raise RefusedError(Fault.INVALID, "must be '24h'.", "completion_window")
    metadata = asked.get("metadata") or {}
    if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
        message = "must have at most 16 entries of 64 and 512 characters."
        raise RefusedError(Fault.INVALID, message, "metadata")


def _checked(lines: Iterator[Json | None], endpoint: str) -> Iterator[tuple[str, Json]]:
    """Yield `custom_id` and body of each line. One wrong line fails the whole batch."""
    seen: set[str] = set()
    model = None
    for number, line in enumerate(lines, 1):
        if line is None:
            raise _WrongFile("invalid_json_line", "This line is not a JSON object.", number)
        custom_id, body = line.get("custom_id"), line.get("body")
        if not isinstance(custom_id, str) or not isinstance(body, dict):
            raise _WrongFile("invalid_request", "custom_id and body are required.", number)
        if custom_id in seen:
            raise _WrongFile("duplicate_custom_id", f"{custom_id!r} appears twice.", number)
        if line.get("method") != "POST" or line.get("url") != endpoint:
            raise _WrongFile("url_mismatch", f"Expected POST and {endpoint}.", number)
        model = model or body.get("model")
        if body.get("model") != model:
            raise _WrongFile("model_mismatch", f"Expected the model {model!r}.", number)
        if number > _MOST_ROWS:
            raise _WrongFile("too_many_tasks", f"A batch has at most {_MOST_ROWS} lines.", number)
        seen.add(custom_id)
        yield custom_id, body
    if not seen:
        raise _WrongFile("empty_file", "The file has no lines.")


def _errors(batch: StoredBatch) -> Json | None:
    if batch.problem is None:
        return None
    code, message, line = batch.problem
    error = {"code": code, "message": message, "param": None, "line": line}
    return {"object": "list", "data": [error]}


def _id(call: HttpCall) -> str:
    """Return the id in a path such as `/v1/batches/ID/cancel`."""
    return call.path.removeprefix("/v1").split("/")[2]


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _json_reply(value: Json) -> HttpReply:
    return HttpReply(200, orjson.dumps(value))
