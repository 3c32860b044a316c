"""Fine-tuning data: JSON Lines of the conversations whose answers passed.

The shapes are those of the vendors' documentation: `chat` is OpenAI's, with the system prompt among the
messages; `messages` is that of Claude on Amazon Bedrock, with the system prompt beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun import formats, output
from batchrun.errors import JobError, quoted
from batchrun.inspection.transcripts import open_transcripts
from batchrun.records import Ending
from batchrun.run.matrix_runs import single_run

if TYPE_CHECKING:
    from batchrun.inspection.transcripts import Transcript
    from batchrun.records import FormatName


SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class FineTuning:
    """The number of rows that were written, and of those left out because they did not pass.

    `unsuitable` rows passed but cannot be written as text, such as rows with images or tool calls.
    """

    path: Path
    written: int
    left_out: int
    unsuitable: int

    @property
    def note(self) -> str:
        """A sentence about the rows that were written."""
        rest = f"; {self.unsuitable:,} have more than text" if self.unsuitable else ""
        return f"{self.written:,} rows written, {self.left_out:,} that did not pass left out{rest}"


def export_fine_tuning(
    directory: Path | str, to: Path | str, shape: FormatName | None = None
) -> FineTuning:
    """Write the rows whose answers passed as fine-tuning data. Sends nothing.

    A row passes if all of its answers passed every scorer; without a `[score]`, if it succeeded. Of several
    samples the first is written. Truncated and refused answers are left out.

    Args:
        directory: the run directory.
        to: a `.jsonl` file.
        shape: the format whose shape to write; by default the format of the job.

    Raises:
        CheckpointError: when the checkpoint cannot be used.
        JobError: when the input is gone, or another file is there.
        OutputError: when the file cannot be written, or the input has changed.
    """
    directory, to = Path(directory), Path(to)
    if to.suffix != SUFFIX:
        raise JobError(f"--to {to}: fine-tuning data needs a name ending in {SUFFIX}")
    if shape is not None and shape not in formats.FORMATS:
        known = " or ".join(formats.FORMATS)
        raise JobError(f"--finetune: must be {known}, not {quoted(shape)}")
    single_run(directory, "--finetune writes one file for one run")
    output.refuse_existing(to, "--to")
    written = left_out = unsuitable = 0
    with (
        open_transcripts(directory) as run,
        output.replacing(to, in_run_directory=False) as temporary,
        temporary.open("wb") as file,
    ):
        beside = formats.of(shape or run.job.request.format).capabilities.system_beside_messages
        for row in run.read():
            if not row.passes or row.answer["ending"] != Ending.STOP:
                left_out += 1
            elif (line := _line(row, system_beside=beside)) is None:
                unsuitable += 1
            else:
                file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                written += 1
    return FineTuning(to, written, left_out, unsuitable)


def _line(row: Transcript, *, system_beside: bool) -> dict[str, Any] | None:
    """Return a conversation with its answer; None if it is not only text."""
    response = row.answer["response"]
    if row.turns is None or not response or row.answer["tool_calls"] is not None:
        return None
    turns = [{"role": role, "content": text} for role, text in row.turns]
    turns.append({"role": "assistant", "content": response})
    if not system_beside:
        return {"messages": turns}
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    messages = [turn for turn in turns if turn["role"] != "system"]
    return {"system": system, "messages": messages} if system else {"messages": messages}
