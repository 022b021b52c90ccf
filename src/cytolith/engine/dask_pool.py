"""Blocks on a Dask cluster: one that runs elsewhere, or worker processes of this machine.

`distributed` is imported when a cluster is asked for, and only here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cytolith.engine.executors import Pool, Slot, interrupts_held
from cytolith.engine.gpus import Gpu, GpuError, find_gpus
from cytolith.engine.worker import WorkerError, forget_task
from cytolith.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
"""How long a scheduler may take to answer, at first and after the connection was lost."""
_SAFE = 0.6
"""Share of a worker's limit that its blocks may take: Dask pauses a worker at 80 % of it and kills it at 95 %."""
_PATIENCE = 5.0
"""Seconds without workers after which a run says what it waits for."""


class DaskPool(Pool):
    """Threads of all workers of a cluster, however many there are at the moment.

    Attributes
    ----------
    workers
        Threads of one worker process.
    machines
        Worker processes when the pool was opened.
    memory : int or None
        Bytes that each worker process may take, after the smallest limit in the cluster; None when there is none.
    local
        Whether its workers are processes of this machine, that share its memory.
    """

    kind = "dask"
    travels = True
    keeps = False
    refresh = 1.0

    def __init__(self, client: Any, cluster: Any = None) -> None:
        self._client, self._cluster = client, cluster
        self.address = str(client.scheduler.address)
        known = self._first_workers()
        super().__init__(max(threads for threads, _ in known))
        self.machines = len(known)
        self.local = cluster is not None
        limits = [memory for _, memory in known if memory]
        self.memory = int(_SAFE * min(limits)) if limits else None
        self._limit = self.workers
        self._outstanding: dict[Future[Any], Any] = {}  # the futures of Dask behind those that were given out
        self._threads: list[int] = []
        self._asked = 0.0
        self._on_gpus = False  # whether blocks go to workers with a resource GPU alone

    def share(self, memory: int | None) -> int:
        """Bytes that a worker process may take: `memory` is its own, or where all are here, that of all together."""
        if self.local:
            return super().share(memory) // (self.machines + 1)  # and of this process, that gathers the results
        return super().share(self.memory if memory is None else memory)

    @property
    def threads(self) -> int:
        """Threads of a worker process."""
        return self.workers

    def gpus(self) -> list[list[Gpu]]:
        """For each worker process the GPUs that it sees.

        Where workers were started with a resource GPU (``dask worker --resources GPU=1``) blocks go to these alone,
        as many at once as each has of it.

        Raises
        ------
        GpuError
            No worker has one.
        """
        shares = self._gpu_shares()
        self._on_gpus = any(shares.values())
        chosen = [address for address, share in shares.items() if share or not self._on_gpus]
        seen = self._client.run(_seen_gpus, workers=chosen)
        found = [gpus for gpus in seen.values() if not isinstance(gpus, str)]
        if not found:
            self._on_gpus = False
            raise GpuError(next(iter(seen.values()), "the cluster has no workers"))
        return found

    def _gpu_shares(self) -> dict[str, int]:
        """Blocks at once that each worker process has the resource for, by its address."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return {
            address: min(int(each["resources"].get(_GPU, 0)), int(each["nthreads"]))
            for address, each in workers.items()
        }

    def _first_workers(self) -> list[tuple[int, int]]:
        """Threads and memory limit of each worker process, as soon as there is one."""
        begin, told = time.monotonic(), False
        while True:
            # all of them: newer versions give five by default
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            if workers:
                return [(int(each["nthreads"]), int(each["memory_limit"] or 0)) for each in workers]
            if not told and time.monotonic() - begin > _PATIENCE:
                told = True
                log.warning("the Dask cluster at %s has no workers yet; waiting for the first", self.address)
            time.sleep(0.2)

    def slots(self, count: int) -> Sequence[Slot]:
        """Two for each thread that may work, so that one block waits at the worker; `count`: blocks a process.

        Raises
        ------
        WorkerError
            The scheduler has gone.
        """
        self._limit = count
        if time.monotonic() - self._asked > self.refresh / 2:
            self._threads = self._ask()
            self._asked = time.monotonic()
        return super().slots(2 * sum(min(threads, count) for threads in self._threads))

    def _ask(self) -> list[int]:
        """Threads of each worker process now."""
        if self._client.status == "closed":
            raise WorkerError(
                f"the Dask scheduler at {self.address} has gone: start it again and give the same command"
            )
        if self._client.status != "running":  # the connection is being made again
            return []
        try:
            if self._on_gpus:
                return [share for share in self._gpu_shares().values() if share]
            return list(self._client.nthreads().values())
        except OSError:
            return []

    def _slot(self) -> Slot:
        return _DaskSlot(self)

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Future of a call on any worker."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            # pure: a call that is made again is no copy of the first
            resources = {_GPU: 1} if self._on_gpus else None
            remote = self._client.submit(_call_limited, self._limit, fn, *args, pure=False, resources=resources)
        except Exception as error:
            if self._client.status == "running":
                raise
            raise BrokenExecutor(str(error)) from error
        self._outstanding[future] = remote

        self._client.loop.add_callback(self._settle, remote, future)
        return future

    async def _settle(self, remote: Any, future: Future[Any]) -> None:
        """Bring a result here, in the loop of the client.

        As Client.get_executor() does; but that has no answer to a result that cannot be fetched: its future never ends.
        """
        try:
            result = await remote._result()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            self._outstanding.pop(future, None)

    def close(self, *, now: bool) -> None:
        """Leave the cluster, and end it if it was started here; `now`: what was sent is taken back."""
        self._slots.clear()
        if self._client is None:
            return
        client, cluster = self._client, self._cluster
        if not now:
            self._let_finish()
        self._client = self._cluster = None
        with suppress(Exception):
            if cluster is None and self._outstanding:
                client.cancel(list(self._outstanding.values()), force=True)
            elif cluster is not None and now:
                cluster.sync(_kill, cluster)
        with suppress(Exception):
            client.close(timeout=1)
        if cluster is not None:
            with suppress(Exception):
                cluster.close(timeout=2 if now else 10)

    def _let_finish(self) -> None:
        """Wait for blocks under way, as no worker may write into what is discarded next."""
        with suppress(WorkerError):
            while self._outstanding and self._ask():
                wait(list(self._outstanding), timeout=1.0)


_GPU = "GPU"
"""Resource of Dask's workers, as its own documents call it."""


def _seen_gpus() -> list[Gpu] | str:
    """GPUs that the calling worker sees, or why it sees none."""
    forget_task()  # of the run before, which would count as what others take
    try:
        return find_gpus()
    except GpuError as error:
        return str(error)


class _DaskSlot(Slot):
    """A place in the window of calls that are sent; which worker takes it is the scheduler's choice."""

    def __init__(self, pool: DaskPool) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., T], *args: Any) -> Future[T]:
        return self._pool.submit(fn, *args)

    def restart(self) -> None:
        """Nothing: the nanny of a worker starts it anew, and all slots share one client."""

    def close(self, *, now: bool) -> None:
        pass


_room = threading.Condition()
_busy = 0


def _call_limited(limit: int, fn: Callable[..., T], *args: Any) -> T:
    """Result of a call in a worker that works on so many blocks at once, as its memory holds no more."""
    global _busy
    with _room:
        _room.wait_for(lambda: _busy < limit)
        _busy += 1
    try:
        return fn(*args)
    finally:
        with _room:
            _busy -= 1
            _room.notify_all()


async def _kill(cluster: Any) -> None:
    """End worker processes at once, and the nannies that would start them anew."""
    await asyncio.gather(*(nanny.close(timeout=0.1) for nanny in cluster.workers.values()), return_exceptions=True)


def open_dask(address: str | None, scheduler_file: Path | None) -> DaskPool:
    """Pool of a Dask cluster.

    Parameters
    ----------
    address
        Of a scheduler, such as ``tcp://node17:8786``; or ``local:N``, to start N worker processes on this machine,
        which listen on loopback only and end with the pool.
    scheduler_file
        File that a scheduler wrote about itself, instead of its address.

    Raises
    ------
    ConfigError
        There is no such scheduler or file, or `distributed` is not installed.
    """
    option = f"--dask {address}" if scheduler_file is None else f"--dask-scheduler-file {scheduler_file}"
    if scheduler_file is not None:
        address = _read_scheduler_file(scheduler_file, option)
    assert address is not None
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(f"{option}: Dask is not installed; pip install 'cytolith[dask]'") from error
    _silence()
    if address.startswith("local:"):
        return _open_local(distributed, address.removeprefix("local:"), option)
    return _joined(_connect(distributed, address, option))


def _read_scheduler_file(path: Path, option: str) -> str:
    try:
        address = json.loads(path.read_text(encoding="utf-8"))["address"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{option}: there is no such file; start the scheduler with dask scheduler --scheduler-file {path}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{option}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{option}: is not what a Dask scheduler writes; give the file that dask scheduler --scheduler-file wrote"
        ) from error
    return str(address)


def _connect(distributed: Any, address: Any, option: str) -> Any:
    try:
        with warnings.catch_warnings():
            # other versions on the workers: ours are compared by the task itself, which names them
            warnings.simplefilter("ignore")
            return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="cytolith")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{option}: no Dask scheduler answers there ({' '.join(str(error).split())}); give tcp://HOST:PORT as the "
            "scheduler prints it, or local:N for N worker processes on this machine"
        ) from error


def _joined(client: Any, cluster: Any = None) -> DaskPool:
    try:
        return DaskPool(client, cluster)
    except BaseException:  # interrupted while it waited for workers
        client.close(timeout=1)
        raise


def _open_local(distributed: Any, count: str, option: str) -> DaskPool:
    if not (count.isascii() and count.isdigit() and int(count)):
        raise ConfigError(f"{option}: give the number of worker processes, such as --dask local:4")
    with interrupts_held(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=int(count),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=0,  # the plan keeps the budget; Dask would spill and pause by its own idea of it
            dashboard_address=None,
            silence_logs=_NEVER,
            # a port that is free, as 8787 may be another's; a block that kills workers is tried again by the run itself
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0", "allowed_failures": 1},
        )
    try:
        return _joined(_connect(distributed, cluster, option), cluster)
    except BaseException:
        cluster.close(timeout=2)
        raise


_NEVER = logging.CRITICAL + 10


def _silence() -> None:
    """Keep what Dask says of lost workers and closed connections off the terminal: a run says it in its own words."""
    for name in ("distributed", "distributed.client", "distributed.nanny", "tornado.application"):
        logging.getLogger(name).setLevel(_NEVER)
