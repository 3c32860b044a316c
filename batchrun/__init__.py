"""batchrun: send every row of a table to an LLM, once.

The command line and the Python interface share what is named here. Names are loaded when they are
first used, so that `batchrun --help` does not wait for the data libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from batchrun.draft import Draft, init_job
    from batchrun.errors import (
        BatchrunError,
        CheckpointError,
        Interrupted,
        JobError,
        OutputError,
        RunStopped,
    )
    from batchrun.estimation import Estimate, estimate, estimate_json, estimate_text
    from batchrun.inspection import (
        Recosted,
        export,
        load_job,
        preview,
        recost,
        recost_notes,
        recost_text,
        score,
        score_text,
        status,
    )
    from batchrun.inspection.comparison import (
        compare,
        comparison_json,
        comparison_text,
        write_comparison,
    )
    from batchrun.inspection.reporting import write_report
    from batchrun.inspection.verification import Verdict, verify
    from batchrun.job import Job, parse_setting
    from batchrun.run import arun_job, run_job
    from batchrun.run.conclusion import RunReport
    from batchrun.run.dataframes import complete
    from batchrun.run.matrix import MatrixReport, arun_matrix, run_matrix
    from batchrun.run.preparation import RunOptions, model_hint
    from batchrun.simulator import Simulator, SimulatorConfig, serve_simulator

_HOMES = {
    "batchrun.comparison": (
        "compare",
        "comparison_json",
        "comparison_text",
        "write_comparison",
    ),
    "batchrun.conclusion": ("RunReport",),
    "batchrun.draft": ("Draft", "init_job"),
    "batchrun.errors": (
        "BatchrunError",
        "CheckpointError",
        "Interrupted",
        "JobError",
        "OutputError",
        "RunStopped",
    ),
    "batchrun.estimation": ("Estimate", "estimate", "estimate_json", "estimate_text"),
    "batchrun.inspection": (
        "Recosted",
        "export",
        "load_job",
        "preview",
        "recost",
        "recost_notes",
        "recost_text",
        "score",
        "score_text",
        "status",
    ),
    "batchrun.job": ("Job", "parse_setting"),
    "batchrun.matrix": ("MatrixReport", "arun_matrix", "run_matrix"),
    "batchrun.notebook": ("complete",),
    "batchrun.prepare": ("RunOptions", "model_hint"),
    "batchrun.reporting": ("write_report",),
    "batchrun.run": ("arun_job", "run_job"),
    "batchrun.simulator": ("Simulator", "SimulatorConfig", "serve_simulator"),
    "batchrun.verification": ("Verdict", "verify"),
}

__all__ = [
    "BatchrunError",
    "CheckpointError",
    "Draft",
    "Estimate",
    "Interrupted",
    "Job",
    "JobError",
    "MatrixReport",
    "OutputError",
    "Recosted",
    "RunOptions",
    "RunReport",
    "RunStopped",
    "Simulator",
    "SimulatorConfig",
    "Verdict",
    "__version__",
    "arun_job",
    "arun_matrix",
    "compare",
    "comparison_json",
    "comparison_text",
    "complete",
    "estimate",
    "estimate_json",
    "estimate_text",
    "export",
    "init_job",
    "load_job",
    "model_hint",
    "parse_setting",
    "preview",
    "recost",
    "recost_notes",
    "recost_text",
    "run_job",
    "run_matrix",
    "score",
    "score_text",
    "serve_simulator",
    "status",
    "verify",
    "write_comparison",
    "write_report",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have any type
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
