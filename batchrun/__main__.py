"""`python -m batchrun`, and what the command `batchrun` starts."""

import signal
from importlib import import_module


def main() -> None:
    """Load the command line and run it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        # Ctrl-C while libraries load ends this without a traceback: there is nothing to save yet.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = import_module("batchrun.cli").main
    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()
