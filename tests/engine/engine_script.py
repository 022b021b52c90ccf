"""A run in a process of its own, for tests that interrupt or kill it: KIND FOLDER SECONDS."""

import os
import sys
from pathlib import Path

from engine_tasks import Report, plan_of

from cytolith.engine.executors import open_pool
from cytolith.engine.run import KEEP_GOING, run_blocks


def main():
    kind, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    if kind.startswith(("local:", "tcp:")):
        from cytolith.engine.dask_pool import open_dask

        opened = open_dask(kind, None)
    else:
        opened = open_pool(kind, 2)
    try:
        with opened as pool:
            for _ in run_blocks(Report(seconds, folder), plan_of(40, pool.workers), pool, policy=KEEP_GOING):
                pass
    except KeyboardInterrupt:
        if kind == "threads":  # threads in a compiled loop cannot be stopped; the command line does not wait for them
            os._exit(130)
        sys.exit(130)


if __name__ == "__main__":
    main()
