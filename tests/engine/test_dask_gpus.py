"""GPUs on a Dask cluster: its workers are threads of this process, which has the stand-in of CuPy."""

import pytest

from cytolith.engine import dask_pool, worker
from cytolith.engine.dask_pool import DaskPool
from cytolith.engine.gpus import GpuError
from cytolith.engine.worker import worker_name

distributed = pytest.importorskip("distributed")


@pytest.fixture
def pool_of():
    """Pool of a cluster of workers in this process, each with the resources given."""
    opened = []

    def make(*resources):
        workers = {
            number: {"cls": distributed.Worker, "options": {"nthreads": 4, "resources": each}}
            for number, each in enumerate(resources)
        }
        cluster = distributed.SpecCluster(
            workers=workers,
            scheduler={"cls": distributed.Scheduler, "options": {"dashboard": False, "host": "127.0.0.1"}},
        )
        client = distributed.Client(cluster, set_as_default=False)
        opened.extend([client, cluster])
        return DaskPool(client)

    yield make
    for each in opened:
        each.close()


def test_workers_tell_of_their_gpus(stand_in, pool_of):
    stand_in.reset(count=2)
    pool = pool_of({}, {})
    assert [[each.index for each in gpus] for gpus in pool.gpus()] == [[0, 1], [0, 1]]
    assert pool.threads == 4
    assert len(pool.slots(4)) == 2 * (4 + 4)  # every thread, and one block that waits for each


def test_blocks_go_to_workers_with_the_resource(stand_in, pool_of):
    pool = pool_of({"GPU": 2}, {}, {"GPU": 9})
    assert len(pool.gpus()) == 2
    assert len(pool.slots(4)) == 2 * (2 + 4)  # no more than it has of it, nor than it has threads
    names = {pool.submit(_address).result(10) for _ in range(12)}
    workers = pool._client.scheduler_info(n_workers=-1)["workers"]
    assert names <= {address for address, each in workers.items() if each["resources"]}


def test_a_cluster_without_gpus_says_so_and_uses_all_workers(stand_in, pool_of):
    stand_in.memory.clear()
    pool = pool_of({"GPU": 1}, {})
    with pytest.raises(GpuError, match="CuPy finds no GPU"):
        pool.gpus()
    assert len(pool.slots(4)) == 2 * (4 + 4)


def _address():
    assert worker_name()
    return distributed.get_worker().address


def test_the_task_of_the_run_before_is_let_go_of(stand_in, monkeypatch):
    """What it holds of a GPU is free memory for the next one."""
    monkeypatch.setattr(worker, "_kept", (b"", object()))
    assert len(dask_pool._seen_gpus()) == 1
    assert worker._kept is None
