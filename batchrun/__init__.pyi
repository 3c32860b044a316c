"""The names of `batchrun`: what `import batchrun` offers, and where each is loaded from.

This file is their only declaration. `__init__.py` reads it when the package is imported and loads a
name when it is first used, so that `batchrun --help` does not wait for the data libraries.
"""

from .dispatch import BATCH as BATCH, LIVE as LIVE, BatchMode as BatchMode
from .draft import Draft as Draft, Wish as Wish, init_job as init_job
from .errors import (
    BatchrunError as BatchrunError,
    CheckpointError as CheckpointError,
    Interrupted as Interrupted,
    JobError as JobError,
    OutputError as OutputError,
    RunStopped as RunStopped,
)
from .estimation import (
    Estimate as Estimate,
    estimate as estimate,
    estimate_json as estimate_json,
    estimate_text as estimate_text,
)
from .evaluation.thresholds import (
    below_threshold as below_threshold,
    code_with_threshold as code_with_threshold,
)
from .inspection import (
    Since as Since,
    export as export,
    load_job as load_job,
    score as score,
    score_text as score_text,
    status as status,
)
from .inspection.comparison import (
    compare as compare,
    comparison_json as comparison_json,
    comparison_text as comparison_text,
    write_comparison as write_comparison,
)
from .inspection.fine_tuning import (
    FineTuning as FineTuning,
    export_fine_tuning as export_fine_tuning,
)
from .inspection.leaderboard import (
    is_folder_of_runs as is_folder_of_runs,
    leaderboard as leaderboard,
    leaderboard_json as leaderboard_json,
    leaderboard_text as leaderboard_text,
    write_leaderboard as write_leaderboard,
)
from .inspection.previews import preview as preview, preview_text as preview_text
from .inspection.recosting import (
    Recosted as Recosted,
    recost as recost,
    recost_notes as recost_notes,
    recost_text as recost_text,
)
from .inspection.reporting import run_scores as run_scores, write_report as write_report
from .inspection.run_places import run_of as run_of
from .inspection.verification import Verification as Verification, verify as verify
from .job import Job as Job, parse_setting as parse_setting
from .run import arun_job as arun_job, run_job as run_job
from .run.cancellation import Canceled as Canceled, cancel as cancel
from .run.comparisons import JudgedPairs as JudgedPairs, judge_pairs as judge_pairs
from .run.conclusion import RunReport as RunReport
from .run.dataframes import complete as complete
from .run.matrix import (
    MatrixReport as MatrixReport,
    arun_matrix as arun_matrix,
    run_matrix as run_matrix,
)
from .run.model_checks import request_hints as request_hints
from .run.preparation import RunOptions as RunOptions
from .run.row_stream import stream as stream
from .run.tasks import classify as classify, extract as extract
from .simulator import (
    Simulator as Simulator,
    SimulatorConfig as SimulatorConfig,
    serve_simulator as serve_simulator,
)
from .source import input_notes as input_notes

__version__: str
