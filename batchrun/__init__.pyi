"""The names of `batchrun`: what `import batchrun` offers, and where each is loaded from.

This file is their only declaration. `__init__.py` reads it when the package is imported and loads a
name when it is first used, so that `batchrun --help` does not wait for the data libraries.
"""

from .dispatch import BATCH as BATCH
from .dispatch import LIVE as LIVE
from .dispatch import BatchMode as BatchMode
from .draft import Draft as Draft
from .draft import DraftOptions as DraftOptions
from .draft import init_job as init_job
from .errors import (
    BatchrunError as BatchrunError,
)
from .errors import (
    CheckpointError as CheckpointError,
)
from .errors import (
    Interrupted as Interrupted,
)
from .errors import (
    JobError as JobError,
)
from .errors import (
    OutputError as OutputError,
)
from .errors import (
    RunStopped as RunStopped,
)
from .estimation import (
    Estimate as Estimate,
)
from .estimation import (
    estimate as estimate,
)
from .estimation import (
    estimate_json as estimate_json,
)
from .estimation import (
    estimate_text as estimate_text,
)
from .evaluation.thresholds import (
    below_threshold as below_threshold,
)
from .evaluation.thresholds import (
    code_with_threshold as code_with_threshold,
)
from .inspection.comparison import (
    compare as compare,
)
from .inspection.comparison import (
    comparison_json as comparison_json,
)
from .inspection.comparison import (
    comparison_text as comparison_text,
)
from .inspection.comparison_file import write_comparison as write_comparison
from .inspection.exporting import Since as Since
from .inspection.exporting import export as export
from .inspection.fine_tuning import (
    FineTuning as FineTuning,
)
from .inspection.fine_tuning import (
    export_fine_tuning as export_fine_tuning,
)
from .inspection.leaderboard import (
    leaderboard as leaderboard,
)
from .inspection.leaderboard import (
    leaderboard_json as leaderboard_json,
)
from .inspection.leaderboard import (
    leaderboard_text as leaderboard_text,
)
from .inspection.leaderboard import (
    write_leaderboard as write_leaderboard,
)
from .inspection.loading import load_job as load_job
from .inspection.previews import preview as preview
from .inspection.previews import preview_text as preview_text
from .inspection.recosting import (
    Recosted as Recosted,
)
from .inspection.recosting import (
    recost as recost,
)
from .inspection.recosting import (
    recost_notes as recost_notes,
)
from .inspection.recosting import (
    recost_text as recost_text,
)
from .inspection.reporting import run_scores as run_scores
from .inspection.reporting import write_report as write_report
from .inspection.rescoring import score as score
from .inspection.rescoring import score_runs as score_runs
from .inspection.rescoring import score_text as score_text
from .inspection.run_lookup import is_folder_of_runs as is_folder_of_runs
from .inspection.run_lookup import run_of as run_of
from .inspection.run_status import status as status
from .inspection.verification import Verification as Verification
from .inspection.verification import verify as verify
from .job import Job as Job
from .job import parse_setting as parse_setting
from .run.cancellation import Canceled as Canceled
from .run.cancellation import cancel as cancel
from .run.comparisons import JudgedPairs as JudgedPairs
from .run.comparisons import judge_pairs as judge_pairs
from .run.conclusion import RunReport as RunReport
from .run.dataframes import complete as complete
from .run.matrix import (
    MatrixReport as MatrixReport,
)
from .run.matrix import (
    arun_matrix as arun_matrix,
)
from .run.matrix import (
    run_matrix as run_matrix,
)
from .run.model_checks import request_hints as request_hints
from .run.row_stream import stream as stream
from .run.run_options import RunOptions as RunOptions
from .run.running import arun_job as arun_job
from .run.running import run_job as run_job
from .run.tasks import classify as classify
from .run.tasks import extract as extract
from .simulator import (
    Simulator as Simulator,
)
from .simulator import (
    SimulatorConfig as SimulatorConfig,
)
from .simulator import (
    serve_simulator as serve_simulator,
)
from .source import input_notes as input_notes

__version__: str
