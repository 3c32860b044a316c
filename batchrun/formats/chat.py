"""The chat format: OpenAI-compatible Chat Completions, `POST /v1/chat/completions`.

Pure functions: a `Request` becomes URL, headers and body; a body becomes a `Completion`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchrun.formats.chat_batches import CHAT_BATCHES
from batchrun.formats.conflicts import chat_conflict
from batchrun.formats.content import (
    ending,
    merged_parts,
    plain_text_of,
    reasoning_of,
    references,
    refusal_of,
    stop_reason,
    text_of,
)
from batchrun.formats.content_blocks import chat_block
from batchrun.formats.conversation import turns, turns_for_chat
from batchrun.formats.extra_body import merged
from batchrun.formats.model_rules import openai_rules
from batchrun.formats.parsing import (
    as_count,
    as_dict,
    as_dicts,
    failed_choice,
    first_text,
    json_or_none,
    text_or_none,
    unusable,
)
from batchrun.formats.pieces import CallPieces, Pieces, merged_blocks
from batchrun.formats.schema_rules import OPENAI_SCHEMAS
from batchrun.formats.tool_calls import (
    chat_calls,
    chat_choice,
    chat_tools,
    chat_turn,
    continue_chat,
)
from batchrun.formats.usage import billing, chat_counts, chat_usage, updated
from batchrun.formats.wire_format import ANY, POSITIVE, Capabilities, WireFormat
from batchrun.records import Completion, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.records import AnswerSchema, Request


THINKING = "-thinking"
_STOP_FIELDS = ("stop_sequence", "stop_reason", "matched_stop")


def headers(_request: Request) -> tuple[tuple[str, str], ...]:
    """Return the format's own headers, without credentials; there are none."""
    return ()


def body(request: Request) -> dict[str, Any]:
    """Return the JSON body. Key order is fixed, because the fingerprint is a hash of these bytes."""
    messages: list[dict[str, Any]] = []
    if request.system is not None:
        text = request.system if isinstance(request.system, str) else list(request.system)
        messages.append({"role": "system", "content": text})
    messages += turns(request, chat_block)
    parameters = request.parameters
    payload: dict[str, Any] = {"model": _model(request), "messages": messages}
    # A new key goes to the end, and is left out if it is None. Otherwise fingerprints of earlier runs
    # change, and all their requests are sent and paid again.
    optional = (
        (request.max_tokens_key, parameters.max_tokens),
        ("temperature", parameters.temperature),
        ("top_p", parameters.top_p),
        ("stop", parameters.stop),
        ("n", parameters.n),
        ("seed", parameters.seed),
        ("presence_penalty", parameters.presence_penalty),
        ("frequency_penalty", parameters.frequency_penalty),
        ("user", parameters.user),
        ("service_tier", parameters.service_tier),
        ("logprobs", parameters.logprobs),
        ("top_logprobs", parameters.top_logprobs),
        ("reasoning_effort", parameters.effort),
        ("tools", chat_tools(request.tools) or None),
        ("tool_choice", request.tool_choice and chat_choice(request.tool_choice)),
        ("parallel_tool_calls", request.parallel_tool_calls),
        ("response_format", _response_format(request.answer)),
    )
    payload.update((name, value) for name, value in optional if value is not None)
    return merged(payload, request.extra_body) if request.extra_body else payload


def _response_format(answer: AnswerSchema | None) -> dict[str, Any] | None:
    if answer is None or answer.as_tool:
        return None
    if answer.schema is None:
        return {"type": "json_object"}
    named = {"name": "answer", "schema": answer.schema, "strict": answer.strict}
    return {"type": "json_schema", "json_schema": named}


def _model(request: Request) -> str:
    """Return the model's name; for some servers, a suffix turns thinking on."""
    thinks = request.parameters.thinking_tokens is not None
    return request.model.removesuffix(THINKING) + THINKING if thinks else request.model


def parse(payload: Mapping[str, Any]) -> Completion:
    """Read a whole (not streamed) answer.

    Raises:
        InvalidResponse: if it has no choice, or a choice that failed.
    """
    choices = [choice for choice in as_dicts(payload.get("choices")) if _is_answered(choice)]
    if choices[1:]:  # servers may list them in the order in which they finished
        choices.sort(key=lambda choice: as_count(choice.get("index")) or 0)
    counts = chat_counts(payload)
    usage, bill = chat_usage(counts), billing(payload, counts)
    if not choices:
        raise unusable(payload, "the answer has no choice with a message", usage, bill)
    answers = [_Answer(choice) for choice in choices]
    for answer in answers:
        # One aborted choice fails the whole answer: its text may be incomplete.
        if answer.ending is Ending.ERROR:
            raise failed_choice(payload, answer.choice, answer.stop_reason, usage, bill)
    first = answers[0]
    return Completion(
        texts=tuple(answer.text for answer in answers),
        stop_reason=first.stop_reason,
        model=text_or_none(payload.get("model")),
        response_id=text_or_none(payload.get("id")),
        usage=usage,
        reasoning=first.reasoning,
        tool_calls=json_or_none(first.calls),
        turn=chat_turn(first.message) if first.calls else None,
        ending=first.ending,
        refusal=first.refusal,
        citations=json_or_none(_citations(first.message, payload)),
        logprobs=json_or_none(first.choice.get("logprobs")),
        stop_sequence=_stop_sequence(first.choice),
        choices=json_or_none([answer.record() for answer in answers] if answers[1:] else None),
        server_tools=json_or_none(as_dicts(first.message.get("executed_tools"))),  # Groq
        billing=bill,
    )


def _is_answered(choice: Mapping[str, Any]) -> bool:
    """Whether a choice is an answer: Gemini sends a filtered choice without any message."""
    return isinstance(choice.get("message"), dict) or bool(
        choice.get("error") or stop_reason(choice.get("finish_reason"))
    )


class _Answer:
    """One choice after reading."""

    def __init__(self, choice: Mapping[str, Any]) -> None:
        self.choice = choice
        self.message = as_dict(choice.get("message"))
        if (text := plain_text_of(self.message)) is not None:
            self.text, self.reasoning, self.calls, self.refusal = text, None, [], None
        else:
            self.text = text_of(self.message)
            self.reasoning = reasoning_of(self.message)
            self.calls = chat_calls(self.message)
            self.refusal = refusal_of(self.message)
        self.stop_reason = stop_reason(choice.get("finish_reason"))
        found = ending(self.stop_reason, refusal=self.refusal, calls=self.calls)
        self.ending = Ending.ERROR if choice.get("error") else found

    def record(self) -> dict[str, Any]:
        """Return its entry in `Completion.choices`."""
        found = {
            "response": self.text,
            "reasoning": self.reasoning,
            "tool_calls": self.calls or None,
            "ending": self.ending,
            "stop_reason": self.stop_reason,
            "refusal": self.refusal,
        }
        logprobs = self.choice.get("logprobs")
        return {**found, "logprobs": logprobs} if logprobs else found


def _citations(message: Mapping[str, Any], payload: Mapping[str, Any]) -> list[Any]:
    """Return annotations, or their equivalents of Mistral, LiteLLM, Perplexity and xAI."""
    extra = as_dict(message.get("provider_specific_fields"))
    found = (
        message.get("annotations")
        or references(message)
        or extra.get("citations")
        or payload.get("search_results")
        or payload.get("citations")
    )
    return found if isinstance(found, list) else []


def _stop_sequence(choice: Mapping[str, Any]) -> str | None:
    """Return the stop sequence that was reached, if the server says so (vLLM, SGLang)."""
    return first_text(*(choice.get(name) for name in _STOP_FIELDS if name in choice))


_TEXTS = frozenset({"reasoning_content", "reasoning", "thinking", "refusal"})
_READ_FIELDS = frozenset({"delta", "message", "index"})
# Fields of a chunk that a completion does not have.
_CHUNK_ONLY = frozenset({"object", "choices", "usage", "x_groq"})


class ChatAssembler:
    """Assembles chunks into a completion body."""

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self.is_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether there is a choice, and each has a finish reason."""
        return bool(self._choices) and all(choice.is_whole for choice in self._choices.values())

    @property
    def choices(self) -> int:
        """The number of choices that have begun."""
        return len(self._choices)

    @property
    def has_begun(self) -> bool:
        """Whether a part of an answer has arrived."""
        return bool(self._choices)

    def add(self, payload: dict[str, Any]) -> None:
        """Take the data of one chunk."""
        for name, value in payload.items():
            if name not in _CHUNK_ONLY and value is not None and value != "":
                self._head[name] = value
        if counts := chat_counts(payload):
            updated(self._usage, counts)
        for choice in as_dicts(payload.get("choices")):
            index = as_count(choice.get("index")) or 0
            if index not in self._choices:
                self._choices[index] = _Choice()
            self._choices[index].add(choice)

    def end(self) -> None:
        """Take `data: [DONE]`."""
        self.is_ended = True

    def head(self) -> dict[str, Any]:
        """Return the completion so far, without its choices."""
        return {**self._head, "object": "chat.completion", "usage": self._usage or None}

    def body(self) -> dict[str, Any]:
        """Return the completion as in an answer that is not streamed."""
        choices = [self._choices[index].body(index) for index in sorted(self._choices)]
        return {**self.head(), "choices": choices}


class _Choice:
    def __init__(self) -> None:
        self._content: list[Any] = []
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._others: dict[str, Any] = {}
        self._calls = CallPieces()
        self._function = Pieces("name", "arguments")
        self._audio = Pieces("data", "transcript")
        self._logprobs: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}

    @property
    def is_whole(self) -> bool:
        found = self._fields
        return stop_reason(found.get("finish_reason")) is not None or bool(found.get("error"))

    def add(self, choice: dict[str, Any]) -> None:
        # A few servers send the last piece, or all of it, as `message`.
        delta = as_dict(choice.get("delta")) or as_dict(choice.get("message"))
        for name, value in delta.items():
            if value is not None:
                self._add_field(name, value)
        for name, value in choice.items():
            if value is None or name in _READ_FIELDS:
                continue
            if name == "logprobs":
                _extend(self._logprobs, as_dict(value))
            else:
                self._fields[name] = value

    def _add_field(self, name: str, value: Any) -> None:  # noqa: ANN401 - any JSON
        if name == "content":
            self._content.append(value)
        elif name == "tool_calls":
            for piece in as_dicts(value):
                self._calls.add(piece)
        elif name == "function_call":
            self._function.add(as_dict(value))
        elif name == "audio":
            self._audio.add(as_dict(value))
        elif name in _TEXTS and isinstance(value, str):
            self._texts.setdefault(name, []).append(value)
        elif isinstance(value, list):
            self._lists.setdefault(name, []).extend(value)
        elif isinstance(value, dict):
            self._others[name] = {**as_dict(self._others.get(name)), **value}
        else:
            self._others[name] = value

    def body(self, index: int) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": merged_parts(self._content)}
        message |= self._others
        message |= {name: "".join(pieces) for name, pieces in self._texts.items()}
        message |= {name: merged_blocks(blocks) for name, blocks in self._lists.items()}
        if calls := self._calls.whole():
            message["tool_calls"] = calls
        if self._function:
            message["function_call"] = self._function.whole()
        if self._audio:
            message["audio"] = self._audio.whole()
        found = {"index": index, "message": message, **self._fields}
        return {**found, "logprobs": self._logprobs} if self._logprobs else found


def _extend(known: dict[str, Any], piece: dict[str, Any]) -> None:
    """Append the lists of a piece to the known ones: log probabilities arrive this way."""
    for name, value in piece.items():
        if isinstance(value, list) and isinstance(known.get(name), list):
            known[name].extend(value)
        elif value is not None:
            known[name] = value


CHAT = WireFormat(
    name="chat",
    title="OpenAI-compatible",
    path="/v1/chat/completions",
    base_url="https://api.openai.com",
    key_env="OPENAI_API_KEY",
    auth="bearer",
    example_model="gpt-4o-mini",
    # Ranges of OpenAI's API reference.
    capabilities=Capabilities(
        parameters={
            "max_tokens": POSITIVE,
            "temperature": (0, 2),
            "top_p": (0, 1),
            "stop": ANY,
            "n": POSITIVE,
            "seed": ANY,
            "presence_penalty": (-2, 2),
            "frequency_penalty": (-2, 2),
            "user": ANY,
            "service_tier": ANY,
            "thinking_tokens": POSITIVE,
            "logprobs": ANY,
            "top_logprobs": (0, 20),
            "effort": ANY,
        },
        efforts=("none", "minimal", "low", "medium", "high", "xhigh", "max", "default"),
        max_tokens_keys=("max_tokens", "max_completion_tokens"),
        json_without_schema=True,
        system_turns=True,
        limits_count_cache_reads=True,
    ),
    request_id_headers=("x-request-id", "request-id"),
    stream_members=b',"stream":true,"stream_options":{"include_usage":true}}',
    headers=headers,
    body=body,
    read_answer=parse,
    read_usage=chat_usage,
    assembler=ChatAssembler,
    write_turns=turns_for_chat,
    continue_body=continue_chat,
    model_rules=openai_rules,
    conflict=chat_conflict,
    schema_rules=OPENAI_SCHEMAS,
    batches=CHAT_BATCHES,
)
