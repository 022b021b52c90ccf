"""Options that say where blocks run, the same for every command that has blocks."""

from pathlib import Path

from cytolith.engine.executors import Pool, open_pool
from cytolith.engine.machine import default_workers
from cytolith.errors import ConfigError


def pool_of(executor: str, dask: str | None, scheduler_file: Path | None, workers: int | None) -> Pool:
    """Pool that the flags ``--executor``, ``--dask``, ``--dask-scheduler-file`` and ``--workers`` ask for."""
    if dask is None and scheduler_file is None:
        return open_pool(executor, default_workers() if workers is None else workers)
    if executor != "threads":
        raise ConfigError(f"--executor {executor} and --dask: give one of the two")
    if dask is not None and scheduler_file is not None:
        raise ConfigError("--dask and --dask-scheduler-file: give one of the two")
    if workers is not None:
        raise ConfigError("--workers and --dask: a cluster has the workers it has; for some here: --dask local:N")
    from cytolith.engine.dask_pool import open_dask

    return open_dask(dask, scheduler_file)
