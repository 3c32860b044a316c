"""`python -m batchrun.workers SOCKET`: a worker; only an owner starts it."""

import sys

from batchrun.workers.processes import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
