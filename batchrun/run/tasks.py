"""`extract` and `classify`: `complete` for two common tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from batchrun.errors import JobError, quoted
from batchrun.formats.schema_rules import closed
from batchrun.run.dataframes import complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrun.run.dataframes import Table


def extract(
    frame: Table,
    *,
    schema: Mapping[str, Any] | type,
    prompt: str | None = None,
    model: str,
    **arguments: Any,  # noqa: ANN401 - those of `complete`
) -> Table:
    """Read facts from every row, and return the rows with a typed column for each fact.

    There is one request per row. Its answer must satisfy the schema: an answer that does not is retried
    and billed again.

    Args:
        frame: the rows, as `complete` takes them.
        schema: a model class of pydantic, or a JSON schema of an object. Each of its properties becomes
            a column: text, integer, number, boolean, or a list of them. A nested object is JSON text.
            All properties are asked for, and no others; one that is not required may be null.
        prompt: template of the user turn, such as `"{{ review }}"`.
        model: name of the model.
        arguments: those of `complete`.

    Returns:
        The same kind of table, with the columns that `complete` adds and one for each property. In rows
        that failed they are null.

    Raises:
        JobError: when the schema is wrong, and as `complete` does.
    """
    given = {"json_schema": closed(json_schema(schema)), "unnest": True}
    return complete(frame, prompt=prompt, model=model, **{**arguments, **given})


def classify(
    frame: Table,
    *,
    labels: Sequence[str] | Mapping[str, str],
    prompt: str | None = None,
    model: str,
    column: str = "label",
    **arguments: Any,  # noqa: ANN401 - those of `complete`
) -> Table:
    """Choose one of several labels for every row.

    There is one request per row. It has the list of labels in its system prompt and in the schema of its
    answer, so that no other answer is possible.

    Args:
        frame: the rows, as `complete` takes them.
        labels: the labels, or a dict with their meanings: `{"bug": "something does not work"}`.
        prompt: template of the user turn, such as `"{{ subject }}"`.
        model: name of the model.
        column: name of the new column with the label.
        arguments: those of `complete`; `system` replaces the system prompt.

    Returns:
        The same kind of table, with the columns that `complete` adds and `column`, which is null in rows
        that failed.

    Raises:
        JobError: when there are fewer than two different labels, and as `complete` does.
    """
    names = _label_names(labels)
    schema = {
        "type": "object",
        "properties": {column: {"type": "string", "enum": names}},
        "required": [column],
        "additionalProperties": False,
    }
    system = _label_prompt(labels if isinstance(labels, Mapping) else names)
    given = {"schema": schema, "prompt": prompt, "model": model}
    return extract(frame, **{"system": system, **arguments, **given})


def _label_names(labels: object) -> list[str]:
    """Return the labels.

    Raises:
        JobError: when they are not at least two different texts.
    """
    names = list(labels) if isinstance(labels, Iterable) and not isinstance(labels, str) else []
    is_text = all(isinstance(name, str) for name in names)
    if not is_text or len(names) < 2 or len(set(names)) < len(names):
        raise JobError(
            f"labels must be a list of at least two different labels (texts), not {quoted(labels)}"
        )
    return names


def _label_prompt(labels: Sequence[str] | Mapping[str, str]) -> str:
    meanings = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(labels, "")
    lines = [f"- {name}{meaning and f': {meaning}'}" for name, meaning in meanings.items()]
    # The names are data: they are not part of the template.
    listed = "\n".join(lines)
    return "{% raw %}Choose the label that fits best:\n" + listed + "{% endraw %}"


def json_schema(schema: Mapping[str, Any] | type) -> dict[str, Any]:
    """Return the JSON schema of a model class of pydantic, or the schema that was given.

    Raises:
        JobError: when it is neither, or does not describe an object.
    """
    describe = getattr(schema, "model_json_schema", None)
    found = describe() if describe is not None else schema
    if not isinstance(found, Mapping):
        raise JobError(
            f"schema must be a pydantic model class or a JSON schema, not {quoted(schema)}"
        )
    if not isinstance(found.get("properties"), Mapping):
        raise JobError("schema must be that of an object with properties")
    return dict(found)
