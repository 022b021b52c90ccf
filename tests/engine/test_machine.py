"""Memory that a job may take, where that is less than the machine has."""

from cytolith.engine.machine import _job_limits, default_memory, default_workers


def test_a_job_of_a_batch_system_has_the_smallest_limit_around_it(tmp_path):
    groups = tmp_path / "groups"
    groups.write_text("0::/system.slice/slurmstepd.scope/job_7/step_0\n")
    job = tmp_path / "system.slice" / "slurmstepd.scope" / "job_7"
    (job / "step_0").mkdir(parents=True)
    (job / "step_0" / "memory.max").write_text("max\n")
    (job / "memory.max").write_text("4294967296\n")
    (tmp_path / "memory.max").write_text("8589934592\n")
    assert min(_job_limits(groups, tmp_path)) == 4 * 2**30


def test_control_groups_of_the_first_version_are_known_too(tmp_path):
    groups = tmp_path / "groups"
    groups.write_text("9:name=systemd:/\n4:memory:/slurm/job_7\n3:cpuset:/x\n")
    job = tmp_path / "memory" / "slurm" / "job_7"
    job.mkdir(parents=True)
    (job / "memory.limit_in_bytes").write_text("2147483648\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert sorted(_job_limits(groups, tmp_path)) == [2 * 2**30, 9223372036854771712]


def test_machines_without_control_groups_have_no_limit(tmp_path):
    assert list(_job_limits(tmp_path / "none", tmp_path)) == []
    assert default_memory() > 2**28
    assert default_workers() >= 1
