"""Sends requests until each has a result; judges answers and faults; runs the tools of conversations.

A `DispatcherFactory` is a way to dispatch: it makes the `Dispatcher` of a run. `LIVE` sends one HTTP
exchange for each attempt. `judgement` says what an answer or a fault means, for every way to dispatch.
"""

from batchrun.dispatch.batch import BATCH, check_batch
from batchrun.dispatch.batch_ports import BatchContext, BatchJournal, BatchMode
from batchrun.dispatch.live import LIVE, LiveDispatcher
from batchrun.dispatch.ports import (
    Accounts,
    Admission,
    Assignment,
    Dispatcher,
    DispatcherFactory,
    FirstRequests,
    Journal,
    Provider,
    Review,
    Rules,
    Sender,
    Tally,
    accept,
)
from batchrun.dispatch.review import rejected, rejecting, review_of
from batchrun.dispatch.toolbox import toolbox_of
from batchrun.formats.unsupported import DroppedParameters
