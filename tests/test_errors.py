"""Errors can be handed to another process, as multiprocessing and Ray do."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import pkgutil
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import batchrun
from batchrun import errors
from batchrun.errors import BatchrunError, Damage, DamagedRecord, HeldRows, ProviderFault, Stop
from batchrun.formats.parsing import InvalidResponse
from batchrun.records import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULT = ProviderFault("rate_limit_error", "slow down", http_status=429, usage=Usage(3, 4))
STOP = Stop(errors.RunEnd.MAX_COST, "max_cost_usd is reached")
DAMAGE = Damage(1, (DamagedRecord(errors.Record.ANSWER, 1, 2, "r1"),))
# How the errors are made that are not made of a message alone.
MADE: dict[str, BatchrunError] = {
    "RunStopped": errors.RunStopped(STOP, is_judge=True),
    "RecordsDamaged": errors.RecordsDamaged("damaged", DAMAGE),
    "BatchesOut": errors.BatchesOut("out", HeldRows(3, "the queue is full"), "no answer"),
    "Interrupted": errors.Interrupted(signal.SIGTERM, "interrupted"),
    "RenderError": errors.RenderError("invalid_template", "no column"),
    "ProviderError": errors.ProviderError(FAULT),
    "BatchNotCreated": errors.BatchNotCreated(FAULT),
    "BatchInDoubt": errors.BatchInDoubt(FAULT),
    "NoBatchEndpoint": errors.NoBatchEndpoint(FAULT),
    "InvalidResponse": InvalidResponse("not JSON", "api_error"),
}


def classes_under(found: type[BatchrunError]) -> Iterator[type[BatchrunError]]:
    yield found
    for each in found.__subclasses__():
        yield from classes_under(each)


def test_every_error_survives_pickling() -> None:
    for module in pkgutil.walk_packages(batchrun.__path__, "batchrun."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in classes_under(BatchrunError):
        error = MADE[kind.__name__] if kind.__name__ in MADE else kind("a message")
        error.add_note("a note")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (str(again), again.args, again.exit_code) == (
            str(error),
            error.args,
            error.exit_code,
        )
        assert vars(again) == vars(error)


def stop() -> None:
    raise MADE["RunStopped"]


def interrupt() -> None:
    raise errors.keyboard_interrupt("interrupted; all answers are saved")


def test_a_pool_of_processes_returns_the_errors_of_its_calls() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        stopped, interrupted = pool.submit(stop), pool.submit(interrupt)
        error = stopped.exception(60)
        assert isinstance(error, errors.RunStopped)
        assert error.stop == STOP
        assert isinstance(interrupted.exception(60), KeyboardInterrupt)
