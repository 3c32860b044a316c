"""`python -m batchrun`, and what the command `batchrun` starts."""

import gc
import signal
from importlib import import_module

# As in a run (`limits.memory`). Libraries make many objects while they load, and none of them is garbage.
COLLECTED_EVERY = 10_000


def main() -> None:
    """Load the command line and run it, in a process that then ends."""
    gc.set_threshold(COLLECTED_EVERY)
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # Ctrl-C while libraries load ends this without a traceback: there is nothing to save yet.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = import_module("batchrun.cli").main
    signal.signal(signal.SIGINT, before)
    try:
        command()
    finally:
        # Python would look for garbage among all objects of all libraries: a tenth of a second and more.
        gc.freeze()


if __name__ == "__main__":
    main()
