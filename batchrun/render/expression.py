"""A template over a row's columns outside of its request, such as `[score] expected`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError
from batchrun.render.sandbox import ENVIRONMENT
from batchrun.render.template import ROW, Text
from batchrun.sections import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Expression:
    """One template of the job file.

    Args:
        section: where it stands: `score`.
        key: under which key there.
        source: the template.
        columns: the input's columns.

    Raises:
        JobError: when it is no template, or needs a column that the input has not.
    """

    def __init__(self, section: str, key: str, source: str, columns: Sequence[str]) -> None:
        self._text = Text(key, source, section)
        text = self._text
        self._whole_row = ROW not in columns and ROW in text.names
        wanted = text.names if ROW in columns else text.names | text.row_names
        for name in sorted(wanted - text.guarded - {*columns, ROW, *ENVIRONMENT.globals}):
            raise JobError(
                f"[{section}] {key}: the input has no column {name!r}{did_you_mean(name, columns)}"
                f"; it has {listed(columns)}"
            )
        text.try_once(columns)
        every = self._whole_row
        self.columns = tuple(c for c in columns if every or c in text.names)

    def value(self, row: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a column's own type
        """Return the value for a row; a bare `{{ column }}` keeps its type.

        Raises:
            RenderError: when a value is null where text is needed, or an expression fails.
        """
        return self._text.value({**row, ROW: row} if self._whole_row else row)
