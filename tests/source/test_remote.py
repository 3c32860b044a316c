"""Tables in a cloud: polars fetches them once, from S3-like stores and web servers on loopback."""

from __future__ import annotations

import gc
import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from batchrun.errors import JobError
from batchrun.job import InputConfig, Job
from batchrun.source import Source
from tests.conftest import command, environment
from tests.support.object_store import BUCKET, ObjectStore, storing
from tests.support.provider import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = pl.DataFrame(
    {"id": [f"r{n}" for n in range(300)], "text": ["say {{ it }}", "", '"so", it'] * 100}
)
KEYS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret-canary"}


def parquet(table: pl.DataFrame) -> bytes:
    content = io.BytesIO()
    table.write_parquet(content, row_group_size=50)
    return content.getvalue()


OBJECTS = {
    "t.parquet": parquet(ROWS),
    "t.csv": ROWS.write_csv().encode(),
    "t.csv.gz": gzip.compress(ROWS.write_csv().encode()),
    "t.tsv": ROWS.write_csv(separator="\t").encode(),
    "t.jsonl": ROWS.write_ndjson().encode(),
    "t.jsonl.gz": gzip.compress(ROWS.write_ndjson().encode()),
}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with storing(dict(OBJECTS)) as found:
        yield found


def config(store: ObjectStore, name: str, *, s3: bool, **facts: Any) -> InputConfig:
    if s3:
        return InputConfig(f"s3://{BUCKET}/{name}", storage_options=store.options(), **facts)
    return InputConfig(f"{store.url}/{name}", **facts)


def rows(source: Source) -> list[tuple[Any, ...]]:
    found = [item.values for items in source.items(["id", "text"], 70) for item in items]
    return [(row["id"], row["text"]) for row in found]


@pytest.mark.parametrize("s3", [True, False], ids=["s3", "http"])
@pytest.mark.parametrize("name", OBJECTS)
def test_each_kind_of_table_is_read_as_if_it_were_here(
    store: ObjectStore, name: str, *, s3: bool
) -> None:
    source = Source(config(store, name, s3=s3, id="id"))
    source.check_ids()
    assert rows(source) == ROWS.rows()
    assert source.count() == 300
    assert pl.concat(list(source.frames())).equals(ROWS)
    assert (store.signed > 0) == s3
    fetched = len(store.gets)
    assert rows(source) == ROWS.rows()
    assert source.is_unchanged()
    assert len(store.gets) == fetched, "it is fetched once"


def test_a_glob_is_several_objects_in_sorted_order(store: ObjectStore) -> None:
    for n in range(3):
        store.objects[f"parts/{n}.parquet"] = parquet(ROWS.slice(n * 100, 100))
    source = Source(config(store, "parts/*.parquet", s3=True, id="id"))
    assert rows(source) == ROWS.rows()


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_conditions_and_limits_go_along(store: ObjectStore, name: str) -> None:
    source = Source(config(store, name, s3=True, where="text <> ''", limit=5, id="id"))
    assert rows(source) == ROWS.filter(pl.col("text") != "").head(5).rows()
    assert source.count() == 5


def test_less_is_fetched_of_parquet(store: ObjectStore) -> None:
    big = pl.DataFrame({"n": range(40_000), "text": [f"{n:050}" for n in range(40_000)]})
    content = io.BytesIO()
    big.write_parquet(content, row_group_size=1_000, compression="uncompressed")
    store.objects["big.parquet"] = content.getvalue()
    source = Source(config(store, "big.parquet", s3=True, where="n < 3"))
    assert source.count() == 3
    assert store.sent_bytes < len(content.getvalue()) / 2


def test_a_copy_is_there_for_as_long_as_it_is_needed(store: ObjectStore) -> None:
    source = Source(config(store, "t.csv", s3=False))
    copy = Path(source.table)
    assert copy.is_relative_to(tempfile.gettempdir())
    assert copy.parent.stat().st_mode & 0o077 == 0
    del source
    gc.collect()
    assert not copy.parent.exists()


def test_a_run_over_a_remote_table(store: ObjectStore, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    options = ", ".join(f'{key} = "{value}"' for key, value in store.options().items())
    env = environment(**KEYS)
    with serving() as provider:
        job.write_text(
            f"""
[input]
path = "s3://{BUCKET}/t.parquet"
id = "id"
limit = 30
storage_options = {{ {options} }}
[request]
model = "claude-haiku-4-5-20251001"
base_url = "{provider.url}"
provider = "anthropic"
api_key_env = "TEST_KEY"
prompt = "{{{{ id }}}}: {{{{ text }}}}"
max_tokens = 9
[output]
dir = "out"
"""
        )
        code, stdout, _ = command("preview", job, "-n", "2", env=env)
        assert (code, len(stdout.splitlines())) == (0, 2)
        for _ in range(2):
            code, _, stderr = command("run", job, env=env)
            assert code == 0, stderr
        assert len(provider.calls) == 30
        assert "nothing to send" in stderr
        # A row that is added in the cloud is new here.
        more = pl.concat([ROWS.head(29), ROWS.tail(1)])
        store.objects["t.parquet"] = parquet(more)
        assert command("run", job, env=env)[0] == 0
        assert len(provider.calls) == 31
    assert command("export", tmp_path / "out", "--to", tmp_path / "x.csv", env=env)[0] == 0
    results = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert results["id"].to_list() == more["id"].to_list()
    for path in (tmp_path / "out").iterdir():
        assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in path.read_bytes()


def test_a_first_job_file_for_a_remote_table(store: ObjectStore, tmp_path: Path) -> None:
    code, _, stderr = command("init", f"{store.url}/t.csv", cwd=tmp_path, env=environment(**KEYS))
    assert code == 0, stderr
    assert f'path = "{store.url}/t.csv"' in (tmp_path / "t.toml").read_text()
    code, stdout, _ = command("preview", "t.toml", "-n", "1", cwd=tmp_path)
    assert code == 0
    assert "say {{ it }}" in json.loads(stdout)["body"]["messages"][0]["content"]


@pytest.mark.parametrize("s3", [True, False], ids=["s3", "http"])
@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("none.parquet", 200, "no file at this address"),
        ("none.csv", 200, "no file at this address"),
        ("none.jsonl", 200, "no file at this address"),
        ("t.parquet", 403, "check the credentials in the environment"),
        ("t.jsonl", 401, "check the credentials in the environment"),
        ("bad.parquet", 200, "cannot be read as a table"),
        ("empty.csv", 200, "cannot be read as a table: empty CSV"),
        ("twice.csv", 200, 'the column "a" appears twice'),
        ("t.xlsx", 200, "download this file"),
        ("t.zip", 200, "unsupported file type"),
    ],
)
def test_what_cannot_be_fetched_is_told(
    store: ObjectStore, name: str, status: int, message: str, *, s3: bool
) -> None:
    store.objects |= {"bad.parquet": b"x" * 99, "empty.csv": b"\n", "twice.csv": b"a,a\n1,2\n"}
    store.status = status
    asked = config(store, name, s3=s3)
    with pytest.raises(JobError) as error:
        Source(asked).count()
    assert message in str(error.value)
    assert str(error.value).startswith(asked.path)
    assert "\n" not in str(error.value)


def test_an_unreachable_store_is_told(store: ObjectStore) -> None:
    options: dict[str, str | int | float] = {
        **store.options(),
        "aws_endpoint_url": "http://127.0.0.1:9",
        "max_retries": 0,
    }
    with pytest.raises(JobError) as error:
        Source(InputConfig(f"s3://{BUCKET}/t.csv", storage_options=options))
    assert "cannot be read" in str(error.value)
    assert "check the address and your network" in str(error.value)


def test_an_error_in_a_row_names_the_address(store: ObjectStore) -> None:
    store.objects["t.csv"] = b"id,text\n1,a\n1,b\n"
    asked = config(store, "t.csv", s3=True, id="id")
    with pytest.raises(JobError) as error:
        Source(asked).check_ids()
    assert str(error.value).startswith(f"{asked.path}: the id '1'")
    with pytest.raises(JobError, match="unknown column 'idd'") as error:
        Source(config(store, "t.csv", s3=True, where="idd = '1'"))
    assert asked.path in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input.path": "https://me:pw@example.com/t.csv"}, "must not contain a password"),
        ({"input.path": "https://example.com/t.csv?sig=x"}, "must not contain a password, a query"),
        ({"input.path": "http://example.com/t.csv"}, "http is allowed for this machine only"),
        (
            {"input.path": "t.csv", "input.storage_options": {"aws_region": "x"}},
            "needs a cloud path",
        ),
        (
            {"input.path": "s3://b/t.csv", "input.storage_options": {"aws_secret_access_key": "x"}},
            "aws_secret_access_key would be stored with the run; set it in the environment",
        ),
        (
            {"input.path": "s3://b/t.csv", "input.storage_options": {"aws_region": ["x"]}},
            "aws_region must be text",
        ),
    ],
)
def test_addresses_that_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[input]\npath = "x.csv"\n[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9')
    with pytest.raises(JobError) as error:
        Job.load(path, settings)
    assert message in str(error.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "abfss", "hf", "https"])
def test_addresses_stay_as_they_are(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "job.toml"
    address = f"{scheme}://datasets/x/{{{{ today }}}}/*.parquet"
    path.write_text(
        f'date = "2026-11-21"\n[input]\npath = "{address}"\n'
        '[request]\nmodel = "m"\nprompt = "p"\nmax_tokens = 9'
    )
    assert Job.load(path).input.path == f"{scheme}://datasets/x/2026-11-21/*.parquet"
