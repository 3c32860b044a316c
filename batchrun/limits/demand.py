"""The demand of a request on the limits, before its answer is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from batchrun import formats

if TYPE_CHECKING:
    from batchrun.records import Attachment, PlannedRequest, Request

BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1_600
TOKENS_PER_PAGE = 2_300  # of a PDF
PAGES_AT_ADDRESS = 5  # of a document that is given by URL
DEFAULT_OUTPUT_TOKENS = 256

# No tokenizer makes more than one token of a byte. Images and documents given by URL are not in the body:
# these are the most tokens that any model counts for one of them.
MOST_TOKENS_PER_IMAGE = 50_000
MOST_TOKENS_PER_DOCUMENT = 1_000_000
# Tokens that a provider's template, and its instructions for tools, add to the request.
MOST_TOKENS_ADDED = 200
MOST_TOKENS_FOR_TOOLS = 1_000
_TYPED = b'"type":"'  # begins each of the following
_IMAGES = b'"type":"image'  # and "image_url"; within a text the quotes would be escaped
_DOCUMENTS = (b'"type":"document"', b'"type":"file"')
# The base64 of an image or a document in either format. A text has another key.
_BASE64 = re.compile(rb'"(?:data|url|file_data)":"(?:data:[^",]{1,100},)?([A-Za-z0-9+/=]{64,})"')
_TEXT_SOURCE = b'"source":{"type":"text"'  # of a document whose text is in the body

# Limits are kept for each of these: base URL, model, and the name of the key's variable.
LimitKey = tuple[str, str, str]


class Demand(NamedTuple):
    """The demand of one request on the limits, in tokens; the output is an upper estimate.

    `most_cost` is the highest possible cost in pico-dollars; None without a cost cap.
    """

    input_tokens: int
    output_tokens: int
    key: LimitKey = ("", "", "")
    most_cost: int | None = None
    counts_cache_reads: bool = False


def demand(planned: PlannedRequest, most_cost: int | None = None, account: str = "") -> Demand:
    """Estimate a request's tokens: its bytes for the input, `max_tokens` for the output.

    Images count by their number and PDFs by their pages, not by the bytes of their base64 text. Those of
    a conversation in a column are found in the body; their pages are not counted.
    """
    request = planned.request
    held_bytes, held_tokens = _held_in_conversation(planned)
    tokens = (_text_bytes(planned) - held_bytes) // BYTES_PER_TOKEN + held_tokens
    tokens += sum(map(_tokens, request.attachments))
    output = (request.parameters.max_tokens or DEFAULT_OUTPUT_TOKENS) * (request.parameters.n or 1)
    key = (request.base_url, request.model, account)
    counts_cache_reads = formats.of(request.format).capabilities.limits_count_cache_reads
    return Demand(max(1, tokens), output, key, most_cost, counts_cache_reads)


def _tokens(attachment: Attachment) -> int:
    """Return the approximate number of tokens of an attachment, apart from text in the body."""
    if not attachment.is_document:
        return TOKENS_PER_IMAGE
    pages = attachment.pages if attachment.url is None else PAGES_AT_ADDRESS
    return pages * TOKENS_PER_PAGE


def _held_in_conversation(planned: PlannedRequest) -> tuple[int, int]:
    """Return the bytes of base64 in a conversation, and the approximate tokens of its images and PDFs."""
    body, attachments = planned.wire.body, planned.request.attachments
    if not attachments and _TYPED not in body:  # as in most requests: one search instead of five
        return 0, 0
    documents = sum(one.is_document for one in attachments)
    images = body.count(_IMAGES) - (len(attachments) - documents)
    files = sum(body.count(mark) for mark in _DOCUMENTS) - body.count(_TEXT_SOURCE)
    files = max(
        0,
        files
        - sum(one.is_document and (one.pages > 0 or one.url is not None) for one in attachments),
    )
    if images <= 0 and files <= 0:
        return 0, 0
    held = sum(found.end(1) - found.start(1) for found in _BASE64.finditer(body))
    tokens = max(0, images) * TOKENS_PER_IMAGE + files * PAGES_AT_ADDRESS * TOKENS_PER_PAGE
    return max(0, held - sum(one.size for one in attachments)), tokens


def most_tokens(planned: PlannedRequest) -> tuple[int, int] | None:
    """Return upper bounds of the input and output tokens; None when the output is unbounded."""
    request, body = planned.request, planned.wire.body
    output = most_output(request)
    if output is None:
        return None
    documents = sum(body.count(mark) for mark in _DOCUMENTS) - body.count(_TEXT_SOURCE)
    tokens = _text_bytes(planned) + MOST_TOKENS_ADDED
    if request.tools or request.answer is not None:
        tokens += MOST_TOKENS_FOR_TOOLS
    tokens += body.count(_IMAGES) * MOST_TOKENS_PER_IMAGE + documents * MOST_TOKENS_PER_DOCUMENT
    return tokens, output


def most_output(request: Request) -> int | None:
    """Return the longest answer that a request allows, in tokens; None when it is unbounded."""
    parameters = request.parameters
    if parameters.max_tokens is None:
        return None
    output = parameters.max_tokens
    if not formats.of(request.format).capabilities.thinking_within_max_tokens:
        output += parameters.thinking_tokens or 0
    return output * (parameters.n or 1)


def _text_bytes(planned: PlannedRequest) -> int:
    return len(planned.wire.body) - sum(one.size for one in planned.request.attachments)
