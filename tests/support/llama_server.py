"""A real llama.cpp server as a peer for integration tests.

`running_llama_server` writes a tiny llama model with random weights (nothing is downloaded), serves
it with the llama.cpp server inside xllamacpp on a free loopback port, and yields the base URL. The
server speaks both wire formats, streams both, and counts tokens with its own tokenizer. What it
says is a salad of words: at temperature 0 the same one for the same request, but for the rounding
of requests that are computed together.

The server is a child process. It can be killed like a provider that goes down, it cannot hang the
tests, and it ends by itself when the process that started it dies. Run as a script, this file is
that child.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_NAME = "tiny-llama"

# The shape of the model; the two tables with a row per vocabulary piece are half of its size.
_WIDTH = 48
_HEADS = 3
_LAYERS = 2
_FEED_FORWARD = 96
_MAX_CONTEXT = 32_768
# Chosen by trial: answers end after 1 to 100 tokens, JSON and tool calls are completed.
_SEED = 42

# The first channels of the model carry no noise, and no layer writes to them. One is constant, so
# that its column of the output table is a bias; the others tell what the last piece was.
_BIAS, _CALL_CUE, _END_CUE = range(3)
_RESERVED = 3
_CUE = 4.0

_END = "</s>"
_CALLER = "<|caller|>"  # takes the place of <|assistant|> when the request offers tools
_CONTROL = ("<s>", _END, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", _CALLER)
_CALL_TAGS = ("<tool_call>", "</tool_call>")
# What answers consist of: words, and what quoting, escaping and UTF-8 decoding have to cope with.
_WORDS = (
    "the a of to in is it and for with on that this order delivery refund invoice account password "
    "ticket customer support urgent late item answer please thanks today yes no good bad very "
    "naïve café größer señor 東京"
)
_MARKS = (".", ",", '"', "🙂", "<0x0A>")

_CHAT_TEMPLATE = """\
{%- if tools %}<|system|>{{ tools | tojson }}</s>{% endif %}
{%- for message in messages %}<|{{ message.role }}|>{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
<tool_call>{"name": {{ call.function.name | tojson }}, \
"arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}</s>{% endfor %}
{%- if add_generation_prompt %}{{ '<|caller|>' if tools else '<|assistant|>' }}{% endif %}"""


def is_available() -> bool:
    """Tell whether the libraries that the server needs are installed."""
    return all(find_spec(name) is not None for name in ("gguf", "xllamacpp"))


@dataclass(frozen=True, slots=True)
class _Piece:
    """One entry of the vocabulary; `spoken` pieces are those that answers consist of."""

    text: str
    kind: int
    spoken: bool


def _vocabulary() -> list[_Piece]:
    """List control tokens, all bytes, printable ASCII, and the words with all their beginnings.

    The tokenizer joins pieces two by two, so a word needs its beginnings; what it does not know
    becomes bytes, so that every text has tokens.
    """
    from gguf import TokenType

    words = [f"▁{word}" for word in _WORDS.split()]
    spoken = {_END, *_MARKS, *words}
    kinds: dict[str, int] = {"<unk>": TokenType.UNKNOWN}
    kinds |= dict.fromkeys(_CONTROL, TokenType.CONTROL)
    kinds |= dict.fromkeys((f"<0x{byte:02X}>" for byte in range(256)), TokenType.BYTE)
    kinds |= dict.fromkeys(_CALL_TAGS, TokenType.USER_DEFINED)
    texts = ["▁", *map(chr, range(0x21, 0x7F)), *_MARKS]
    texts += [word[:end] for word in words for end in range(2, len(word) + 1)]
    for text in texts:
        kinds.setdefault(text, TokenType.NORMAL)
    return [_Piece(text, kind, text in spoken) for text, kind in kinds.items()]


def build_model(path: Path) -> None:
    """Write a llama model of about 0.4 MB with seeded random weights: always the same bytes."""
    from gguf import GGUFWriter

    pieces = _vocabulary()
    writer = GGUFWriter(path, "llama")
    writer.add_name(MODEL_NAME)
    writer.add_context_length(_MAX_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(pieces))

    ids = {piece.text: number for number, piece in enumerate(pieces)}
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_types([piece.kind for piece in pieces])
    writer.add_token_scores([float(len(piece.text)) for piece in pieces])
    writer.add_unk_token_id(ids["<unk>"])
    writer.add_bos_token_id(ids["<s>"])
    writer.add_eos_token_id(ids[_END])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_CHAT_TEMPLATE)

    for name, tensor in _tensors(pieces, ids).items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(pieces: list[_Piece], ids: dict[str, int]) -> dict[str, "NDArray[np.float32]"]:
    """Draw the weights: noise, but for what keeps the answers readable and ends them."""
    import numpy as np

    random = np.random.default_rng(_SEED)

    def noise(rows: int, columns: int, scale: float) -> "NDArray[np.float32]":
        return random.normal(0.0, scale, (rows, columns)).astype(np.float32)

    embedding = noise(len(pieces), _WIDTH, 1.0)
    output = noise(len(pieces), _WIDTH, 0.5) - 0.3 * embedding  # less: or a piece repeats itself
    output[[not piece.spoken for piece in pieces]] *= 0.1
    embedding[:, :_RESERVED] = output[:, :_RESERVED] = 0.0
    embedding[:, _BIAS] = _CUE
    output[:, _BIAS] = [0.0 if piece.spoken else -8.0 for piece in pieces]
    output[ids[_END], _BIAS] = 0.5
    # No answer is empty, it is a call where tools are offered, and nothing follows a call or JSON.
    opening, closing = (ids[tag] for tag in _CALL_TAGS)
    embedding[ids[_CALLER], _CALL_CUE] = _CUE
    embedding[[ids["}"], closing], _END_CUE] = _CUE
    embedding[ids["<|assistant|>"], _END_CUE] = -_CUE
    output[opening, _CALL_CUE] = output[ids[_END], _END_CUE] = 60.0
    output[closing, _BIAS] = -4.0

    ones = np.ones(_WIDTH, dtype=np.float32)
    tensors = {"token_embd": embedding, "output_norm": ones, "output": output}
    for layer in range(_LAYERS):
        attention_output = noise(_WIDTH, _WIDTH, 0.3)
        feed_forward_down = noise(_WIDTH, _FEED_FORWARD, 0.2)
        attention_output[:_RESERVED] = feed_forward_down[:_RESERVED] = 0.0
        block = {
            "attn_norm": ones,
            "attn_q": noise(_WIDTH, _WIDTH, 0.3),
            "attn_k": noise(_WIDTH, _WIDTH, 0.3),
            "attn_v": noise(_WIDTH, _WIDTH, 0.3),
            "attn_output": attention_output,
            "ffn_norm": ones,
            "ffn_gate": noise(_FEED_FORWARD, _WIDTH, 0.2),
            "ffn_up": noise(_FEED_FORWARD, _WIDTH, 0.2),
            "ffn_down": feed_forward_down,
        }
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return tensors


@dataclass(slots=True)
class LlamaServer:
    """The child process that serves the model; a context manager that always ends it."""

    directory: Path
    api_key: str | None = None
    slots: int = 4
    context_per_slot: int = 4096
    port: int = 0
    deadline_s: float = 120.0
    base_url: str = field(default="", init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def log_path(self) -> Path:
        """Where the server's own log goes."""
        return self.directory / "llama_server.log"

    @property
    def pid(self) -> int:
        """The process id of the running child."""
        if self._process is None:
            raise RuntimeError("the llama server is not running")
        return self._process.pid

    def start(self) -> str:
        """Start the child on the model, written if need be; return its base URL when ready."""
        if self._process is not None:
            raise RuntimeError("the llama server is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        model = self.directory / f"{MODEL_NAME}.gguf"
        if not model.exists():
            build_model(model)
        address = self.directory / "llama_server.address"
        address.unlink(missing_ok=True)
        command = [sys.executable, "-P", __file__, f"--model={model}", f"--address-file={address}"]
        command += [f"--slots={self.slots}", f"--context-per-slot={self.context_per_slot}"]
        command += [f"--port={self.port}"]
        if self.api_key is not None:
            command += [f"--api-key={self.api_key}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self.base_url = self._wait_until_ready(self._process, address)
        except BaseException:
            self.stop()
            raise
        return self.base_url

    def stop(self) -> None:
        """End the child by its process id; harmless when it has ended already."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(timeout=self.deadline_s)
        if process.stdin is not None:
            process.stdin.close()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], address: Path) -> str:
        deadline = time.monotonic() + self.deadline_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the llama server ended at its start:\n{self._log_tail()}")
            if address.exists():
                base_url = address.read_text(encoding="ascii")
                if _is_healthy(base_url):
                    return base_url
            time.sleep(0.01)
        raise TimeoutError(
            f"the llama server was not ready after {self.deadline_s} s:\n{self._log_tail()}"
        )

    def _log_tail(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@contextmanager
def running_llama_server(
    tmp_path: Path,
    api_key: str | None = None,
    *,
    slots: int = 4,
    context_per_slot: int = 4096,
    deadline_s: float = 120.0,
) -> Iterator[str]:
    """Serve from `tmp_path` and yield the base URL, without `/v1`; no `api_key`: any will do."""
    with LlamaServer(
        tmp_path, api_key, slots=slots, context_per_slot=context_per_slot, deadline_s=deadline_s
    ) as server:
        yield server.base_url


def _is_healthy(base_url: str) -> bool:
    connection = HTTPConnection(urlsplit(base_url).netloc, timeout=60)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _serve(arguments: argparse.Namespace) -> None:
    """Serve until standard input closes, which is when the parent ends, however it ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(arguments.model)
    params.model_alias = {MODEL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    if arguments.api_key is not None:
        params.api_keys = [arguments.api_key]
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.slots * arguments.context_per_slot
    params.n_predict = 512  # for requests without max_tokens
    params.cache_ram_mib = 64
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params = params.ui = params.warmup = False
    params.offline = True
    server = xllamacpp.Server(params)

    written = arguments.address_file.with_suffix(".tmp")
    written.write_text(server.listening_address, encoding="ascii")
    written.replace(arguments.address_file)
    sys.stdin.buffer.read()
    os._exit(0)  # at once, whatever the server's threads are doing


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=_serve.__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--address-file", type=Path, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context-per-slot", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--api-key")
    return parser.parse_args()


if __name__ == "__main__":
    _serve(_parse_arguments())
