"""The results of a run for people and for programs: `summary.json`, the terminal, `report.html`."""

from batchrun.report.notebook import summary_html, table_html
from batchrun.report.run_summary import SCHEMA_VERSION, summary, summary_json
from batchrun.report.terminal import (
    SIMULATED,
    judge_status_line,
    shortfall,
    state_of_all,
    status_text,
    summary_text,
)
