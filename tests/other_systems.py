"""Tests that need what not every system has."""

import sys

SIGNALS = "signals, forks and groups of processes are those of POSIX"
SHELL = "the commands are those of a POSIX shell"
OPEN_FILES = "Windows leaves a file that is open where it is"
HOLES = "Windows does not say how much room a file takes that was not written to its end"
CALLS = "takes the place of a call that only POSIX has"
PROC = "reads in /proc what Linux says of processes"

NOT_ON_WINDOWS = {
    SIGNALS: (
        "cli/test_commands.py::test_an_interrupt_stops_at_once_and_leaves_nothing_half_written",
        "cli/test_commands.py::test_a_full_disk_is_one_line",
        "cli/test_convert.py::test_an_interrupt_can_be_gone_on_from",
        "cli/test_fracture_commands.py::test_a_signal_leaves_what_is_finished_and_the_same_command_goes_on",
        "cli/test_fracture_commands.py::test_a_run_that_is_killed_goes_on",
        "cli/test_fracture_commands.py::test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room",
        "cli/test_fracture_commands.py::test_memory_does_not_grow_with_the_number_of_planes",
        "cli/test_tune.py::test_an_interrupt_keeps_the_best_so_far",
        "contracts/test_cluster.py",
        "contracts/test_exact_fracture.py::test_killed_runs_go_on",
        "contracts/test_kill.py",
        "convert/test_convert.py::test_kills_lose_nothing",
        "engine/test_dask.py::test_a_worker_that_is_killed_in_a_block_is_started_anew",
        "engine/test_dask.py::test_a_block_that_always_kills_its_worker_fails_and_the_others_do_not",
        "engine/test_dask.py::test_two_real_workers_and_one_is_killed_in_the_middle",
        "engine/test_dask.py::test_an_interrupt_ends_a_local_run_soon_and_quietly",
        "engine/test_dask.py::test_no_worker_outlives_a_parent_that_is_killed",
        "engine/test_executors.py::test_a_process_that_is_killed_in_a_block_is_replaced",
        "engine/test_executors.py::test_a_block_that_always_kills_its_process_fails_and_the_others_do_not",
        "engine/test_executors.py::test_a_process_that_died_between_blocks_costs_no_error",
        "engine/test_executors.py::test_an_executor_of_others_that_breaks_ends_with_one_line",
        "engine/test_executors.py::test_an_interrupt_ends_a_run_soon_and_quietly",
        "engine/test_executors.py::test_no_process_outlives_a_parent_that_is_killed",
        "io/test_lock.py::test_a_killed_holder_is_taken_over",
        "test_cluster_docs.py",
    ),
    SHELL: (
        "cli/test_fracture_commands.py::test_text_that_nobody_reads_is_no_failure",
        "test_docs.py",
        "test_readme.py::test_shell_commands",
    ),
    OPEN_FILES: (
        "io/test_hdf5.py::test_another_file_in_its_place",
        "io/test_hdf5.py::test_away_and_back_and_in_another_process",
        "io/test_lock.py::test_a_lock_removed_between_opening_and_locking",
        "io/test_lock.py::test_releasing_leaves_the_lock_of_another_run",
    ),
    HOLES: ("io/test_sink.py::test_no_room_for_the_rest_of_a_resumed_volume",),
    CALLS: (
        "io/test_lock.py::test_shares_that_say_permission_denied_for_locked",
        "io/test_map_files.py::test_text_has_the_bytes_of_savetxt_and_comes_back",  # NumPy's lines end as the system's
        "io/test_row_file.py::test_full_disk_is_said",
        "io/test_row_file.py::test_rows_never_written_are_zero_and_take_no_room",
        "io/test_row_file.py::test_transfers_that_stop_half_way_go_on",
        "io/test_tiff_sink.py::test_a_disk_that_fills_up_leaves_nothing",
        "io/test_tiff_sink.py::test_short_writes_are_continued",
    ),
}
ON_LINUX = {
    PROC: (
        "contracts/test_memory.py",
        "convert/test_convert.py::test_memory_stays_below_what_was_given",
        "engine/test_dask.py",  # looks for ports that are listened at
        "engine/test_executors.py::test_an_interrupt_while_processes_start_is_quiet",
        "engine/test_executors.py::test_no_process_outlives_a_parent_that_is_killed",
        "engine/test_executors.py::test_threads_of_libraries_are_off_and_interrupts_left_to_the_parent",
        "io/test_lock.py::test_a_killed_holder_that_nobody_has_waited_for",
        "io/test_lock.py::test_the_file_says_who_holds_the_folder_and_goes_with_them",
        "io/test_lock.py::test_the_number_of_a_dead_process_used_again",
        "io/test_sink.py::test_flushing_reaches_the_disk_or_says_why_not",
        "io/test_table_writer.py::test_a_disk_that_fills_up",
    ),
}


def reason_to_skip(test, platform=sys.platform):
    """Why a test (its path below the folder of tests, ``::``, its name) cannot run on a system; None where it can."""
    needs = {} if platform == "linux" else dict(ON_LINUX)
    if platform == "win32":
        needs |= NOT_ON_WINDOWS
    for reason, names in needs.items():
        if any(test == name or test.startswith((f"{name}::", f"{name}[")) for name in names):
            return reason
    return None
