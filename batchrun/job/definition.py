"""`Job`: the definition of a run, read from a job file and validated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchrun.errors import JobError, quoted, short
from batchrun.formats.credentials import without_credentials
from batchrun.job.cells import cells_of, read_axes, same_cells
from batchrun.job.configs import (
    BatchConfig,
    Cell,
    InputConfig,
    JudgeConfig,
    LimitsConfig,
    OutputConfig,
    PriceConfig,
    RequestConfig,
    RetryConfig,
    RunPart,
    ScoreConfig,
    ToolsConfig,
)
from batchrun.job.connection import literal_credentials
from batchrun.job.judge import judge_of
from batchrun.job.output_section import read_output
from batchrun.job.overrides import (
    MATRIX,
    SCORE,
    SECTIONS,
    apply_overrides,
    read_date,
    settled,
)
from batchrun.job.paths import (
    UserFile,
    files_outside_project,
    read_beside,
    user_files,
)
from batchrun.job.reader import Section, listed, read_toml
from batchrun.job.request import (
    JOB_WIDE_KEYS,
    ROW_KEYS,
    read_request,
    request_keys,
)
from batchrun.job.scorers import read_scores, score_sections
from batchrun.job.sections import (
    check_cap,
    read_batch,
    read_input,
    read_limits,
    read_model_prices,
    read_price,
    read_retry,
    read_tools,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date


# It is the name of a folder, which may get a suffix.
LONGEST_JOB_NAME = 200


@dataclass(frozen=True, slots=True)
class Job:
    """The definition of a batch: rows, requests, limits, outputs.

    `date` is the day of its `{{ today }}`; None if nothing depends on it. With a `[matrix]`, `cells` has a job
    for each cell, whose `cell` describes it, and `request` is the request of the first cell. In the job of a
    judge, `judge` says how to read its answers. `files` are the job file and the other files that it names,
    except the input, as far as they are known.
    """

    name: str
    date: date | None
    input: InputConfig
    request: RequestConfig
    limits: LimitsConfig
    retry: RetryConfig
    output: OutputConfig
    tools: ToolsConfig
    price: PriceConfig | None
    model_prices: Mapping[str, PriceConfig]
    scores: tuple[ScoreConfig, ...]
    judge: JudgeConfig | None
    batch: BatchConfig
    document: Mapping[str, Any] = field(repr=False)
    base: Path = field(repr=False)
    cell: Cell | None = None
    cells: tuple[Job, ...] = field(default=(), repr=False)
    files: tuple[UserFile, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def load(cls, path: Path | str, overrides: Mapping[str, Any] | None = None) -> Job:
        """Read and check a job file.

        Args:
            path: the TOML file; relative paths in it start from its folder.
            overrides: dotted keys and their values, such as `{"request.model": "m"}`.

        Raises:
            JobError: names the file, the key, the value and the fix, for every problem.
        """
        path = Path(path)
        given, base = read_toml(path), path.resolve().parent
        if "part" in given:
            raise JobError(f"{path}: part: unknown key")
        if "judge" in given:
            raise JobError(f"{path}: judge: unknown key (a judge belongs in [score.judge])")
        if problems := files_outside_project(given, base, overrides or {}):
            raise JobError("\n".join(f"{path}: {problem}" for problem in problems))
        document = apply_overrides({"name": path.stem, **given}, overrides or {})
        job = cls.from_document(document, base, origin=str(path))
        return job._with_files(user_files(document, base, path.absolute()))

    def _with_files(self, files: tuple[UserFile, ...]) -> Job:
        cells = tuple(cell._with_files(files) for cell in self.cells)
        return replace(self, files=files, cells=cells)

    def of_part(self, part: RunPart) -> Job:
        """Return the job of one part of a partitioned run: its rows, and its file of results."""
        return replace(
            self,
            document={**self.document, "part": asdict(part)},
            input=replace(self.input, part=part),
            output=replace(self.output, files=(f"../{part.name}.parquet",), partition_by=()),
        )

    @classmethod
    def for_table(
        cls, table: Path, columns: Sequence[str], overrides: Mapping[str, Any] | None = None
    ) -> Job:
        """Create the job for a table with a `prompt` or `messages` column, without a job file.

        Raises:
            JobError: if it has neither column, or an option is wrong.
        """
        document = {
            "name": table.name.split(".")[0] or table.name,
            "input": {"path": str(table.resolve())},
            "request": _request_from_columns(table, columns),
        }
        return cls.from_document(
            apply_overrides(document, overrides or {}), table.resolve().parent, origin=str(table)
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any], base: Path, *, origin: str = "job") -> Job:
        """Check a parsed job and freeze it.

        Raises:
            JobError: lists every problem found.
        """
        if MATRIX in document:
            return cls._with_cells(document, base, origin)
        problems: list[str] = []
        document = settled(_with_texts(document, base, problems))
        top = Section("", document, problems)
        name, day = _read_name(top), read_date(top)
        sections = {key: Section(key, top.table(key), problems) for key in SECTIONS if key != SCORE}
        scorers = score_sections(top, problems)
        request = read_request(sections["request"], base)
        job = cls(
            name=name,
            date=day,
            input=read_input(sections["input"], base, day),
            request=request,
            limits=(limits := read_limits(sections["limits"])),
            retry=read_retry(sections["retry"], request),
            output=read_output(sections["output"], base, name, day, request.answer),
            tools=read_tools(sections["tools"], base, request),
            price=read_price(sections["price"]),
            model_prices=read_model_prices(sections["price"], problems),
            scores=(scores := read_scores(scorers, base, top.table("request"))),
            judge=judge_of(top.table("judge")) if "judge" in document else None,
            batch=read_batch(sections["batch"]),
            document=document,
            base=base,
        )
        if "part" in document:
            job = job.of_part(_read_part(top.table("part")))
        check_cap(sections["limits"], limits, request)
        for section, config in zip(scorers, scores, strict=True):
            if config.judge is not None and config.judge.request is not None:
                asked, name = config.judge.request, f"{section.name}.judge"
                check_cap(sections["limits"], limits, asked, name)
        every = [*sections.values(), *scorers]
        homes = {key: section.name for section in every for key in section.known}
        for section in (top, *every):
            section.finish(homes)
        problems += _unstorable(document)
        _raise_all(problems, origin)
        return job

    @classmethod
    def _with_cells(cls, document: Mapping[str, Any], base: Path, origin: str) -> Job:
        """Create the job of each cell, and one job with all of them."""
        problems: list[str] = []
        # The values of cells are in their names, and so in messages and on the disk.
        _raise_all(literal_credentials(document[MATRIX]), f"{origin}: [matrix]")
        axes = read_axes(document[MATRIX], request_keys(), problems)
        _raise_all(problems, origin)
        plain = {key: value for key, value in settled(document).items() if key != MATRIX}
        cells = cells_of(axes)
        jobs = tuple(cls._of_cell(plain, cell, base, origin) for cell in cells)
        _raise_all(same_cells(cells, [job.request for job in jobs]), origin)
        return replace(jobs[0], document=document, cell=None, cells=jobs)

    @classmethod
    def _of_cell(cls, document: Mapping[str, Any], cell: Cell, base: Path, origin: str) -> Job:
        where = f"{origin}: [matrix] {cell.name}"
        chosen = {f"request.{key}": value for key, value in cell.values.items()}
        job = cls.from_document(apply_overrides(document, chosen), base, origin=where)
        _raise_all(
            [
                f"the column {quoted(key)} overrides [matrix] {short(key)}; rename the column"
                for key in cell.values
                if key in job.request.from_columns
            ],
            where,
        )
        return replace(job, cell=cell)


def known_keys() -> list[str]:
    """Return the keys of all sections in the form of `--set`, such as `request.temperature`."""
    here = Path()
    sections = {name: Section(name, {}, []) for name in SECTIONS if name not in {SCORE, "request"}}
    read_input(sections["input"], here, None)
    request = read_request(Section("request", {}, []), here)
    read_limits(sections["limits"])
    read_retry(sections["retry"], request)
    read_output(sections["output"], here, "", None, None)
    read_tools(sections["tools"], here, request)
    read_price(sections["price"])
    names = {name: section.known for name, section in sections.items()}
    names["request"] = frozenset(request_keys())
    return sorted(f"{name}.{key}" for name, keys in names.items() for key in keys)


def _raise_all(problems: Sequence[str], origin: str) -> None:
    if problems:
        text = "\n".join(f"{origin}: {problem}" for problem in problems)
        raise JobError(without_credentials(text))


def _unstorable(document: Mapping[str, Any]) -> list[str]:
    """Return why a run directory could not store the document as JSON."""
    try:
        orjson.dumps(document, default=str)
    except (TypeError, RecursionError) as error:
        return [f"contains a value that cannot be stored as JSON: {error}"]
    return []


def _with_texts(document: Mapping[str, Any], base: Path, problems: list[str]) -> dict[str, Any]:
    """Return a copy with the content of `prompt_file` and `system_file` in their place.

    A run stores these texts, so later changes of the files do not matter.
    """
    changed = dict(document)
    if isinstance(request := document.get("request"), dict):
        changed["request"] = _with_text(Section("request", request, problems), request, base)
    score = document.get("score")
    if isinstance(score, dict):
        changed["score"] = _with_judge_text(score, base, problems)
    elif isinstance(score, list):
        changed["score"] = [_with_judge_text(each, base, problems) for each in score]
    return changed


def _with_judge_text(score: Any, base: Path, problems: list[str]) -> Any:  # noqa: ANN401 - as parsed
    judge = score.get("judge") if isinstance(score, dict) else None
    if not isinstance(judge, dict):
        return score
    section = Section("score.judge", judge, problems)
    return {**score, "judge": _with_text(section, judge, base)}


def _with_text(section: Section, table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    changed = dict(table)
    for key in ("prompt", "system"):
        file = section.get(f"{key}_file", str)
        changed.pop(f"{key}_file", None)
        if file is None:
            continue
        if key in table:
            section.problem(f"{key}_file", f"{key} is also set; remove one of them")
        read = partial(read_beside, base, file)
        changed[key] = section.check(f"{key}_file", read, "unread")
    return changed


def _request_from_columns(table: Path, columns: Sequence[str]) -> dict[str, Any]:
    if "messages" in columns:
        request: dict[str, Any] = {"messages_column": "messages"}
    elif "prompt" in columns:
        request = {"prompt": "{{ prompt }}"}
    else:
        raise JobError(
            f'{table}: a table without a job file needs a "prompt" or "messages" column; '
            f"its columns are {listed(columns)}. Rename a column, or write a job file with a "
            "[request] prompt template"
        )
    for column in columns:
        if column in JOB_WIDE_KEYS:
            raise JobError(
                f'{table}: the column "{short(column)}" has the name of a request key that must be the '
                "same for all rows; rename the column"
            )
    for key in ("images", "documents"):
        if key in columns:
            request[key] = f"{{{{ {key} }}}}"
    request["from_columns"] = [column for column in columns if column in ROW_KEYS]
    return request


def _read_name(section: Section) -> str:
    name = section.text("name") or "job"
    # It is the name of the run's folder, and is shown in the progress line.
    if Path(name).name != name or name == ".." or not name.isprintable():
        section.problem("name", f"must be a valid folder name, not {quoted(name)}")
    elif len(name.encode()) > LONGEST_JOB_NAME:
        section.problem("name", f"is longer than {LONGEST_JOB_NAME} bytes: {quoted(name)}")
    return name


def _read_part(table: Mapping[str, Any]) -> RunPart:
    return RunPart(*(int(table.get(each.name, 0)) for each in fields(RunPart)))
