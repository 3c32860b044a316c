"""Job files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchrun.errors import JobError
from batchrun.job import Job

BASE = Path("/srv/project")


def document(**sections: Any) -> dict[str, Any]:
    """A complete job as parsed TOML, with sections replaced or extended."""
    request = {"model": "m", "prompt": "Say {{ text }}", "max_tokens": 10}
    changed = {**request, **sections.pop("request", {})}
    wanted = {key: value for key, value in changed.items() if value is not None}
    return {"input": {"path": "rows.csv"}, "request": wanted, **sections}


def make(**sections: Any) -> Job:
    return Job.from_document(document(**sections), BASE)


def refusal(**sections: Any) -> str:
    with pytest.raises(JobError) as caught:
        make(**sections)
    return str(caught.value)
