"""The command ``apm_process_image_stack``: the flags of apmapflow's script of that name."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence

from cytolith.errors import ConfigError, CytolithError, MemoryBudgetError

NAME = "apm_process_image_stack"

log = logging.getLogger(__name__)

_CHOICES = re.compile(r"\b(?:channel|timepoint|level|dataset)=")
"""Arguments of `open_volume` in what it says."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on the arguments of the process, or on those given; its exit code.

    Returns
    -------
    int
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:  # help, and what argparse refuses
        return int(end.code or 0)
    package = logging.getLogger("cytolith")
    handler, level = logging.StreamHandler(sys.stderr), package.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    package.addHandler(handler)
    package.setLevel(logging.INFO if given.verbose else logging.WARNING)
    try:
        return _run(given)
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        NAME,
        description="Clean a binary stack of a fractured rock and map its aperture and its offset.",
        epilog="Files are those that apmapflow 0.1 writes, at any size. `cytolith fracture` has more options.",
    )
    add = parser.add_argument
    add("image_file", help="TIFF stack; fracture is where it is not 0")
    add("-f", "--force", action="store_true", help="replace existing files")
    add("-v", "--verbose", action="store_true", help="say what is done")
    add("-o", "--output-dir", default=".", metavar="DIR", help="folder for the results; default: the current one")
    add(
        "-n",
        "--num-clusters",
        type=int,
        default=0,
        metavar="N",
        help="keep the N largest clusters of voxels connected over faces, edges and corners (-N: all but the N "
        "smallest); default: keep all voxels",
    )
    add("-i", "--invert", action="store_true", help="fracture is where the stack is 0")
    add("--aper-map-name", metavar="NAME", help="name of the aperture map; default: IMAGE-aperture-map.txt")
    add("--offset-map-name", metavar="NAME", help="name of the offset map; default: IMAGE-offset-map.txt")
    add("--img-stack-name", metavar="NAME", help="name of the stack of what is kept; default: IMAGE-processed.tif")
    add("--gen-cluster-img", action="store_true", help="write an image of all clusters, coloured by size; needs -n")
    add("--no-aper-map", action="store_true", help="do not write the aperture map")
    add("--no-offset-map", action="store_true", help="do not write the offset map")
    add("--no-img-stack", action="store_true", help="do not write the stack")
    return parser


def _run(given: argparse.Namespace) -> int:
    try:
        # here, so that Ctrl-C while the libraries are loaded is answered in one line too
        from cytolith.compat.apmapflow_run import Progress, StackOptions, process_stack

        options = StackOptions(
            num_clusters=given.num_clusters,
            invert=given.invert,
            force=given.force,
            gen_cluster_img=given.gen_cluster_img,
            no_aper_map=given.no_aper_map,
            no_offset_map=given.no_offset_map,
            no_img_stack=given.no_img_stack,
            aper_map_name=given.aper_map_name,
            offset_map_name=given.offset_map_name,
            img_stack_name=given.img_stack_name,
        )
        result = process_stack(given.image_file, given.output_dir, options, Progress())
    except ConfigError as error:
        return _fail(str(error), 2)
    except MemoryBudgetError as error:
        return _fail(f"{error} (of cytolith fracture; this command takes half of what the machine has)", 1)
    except CytolithError as error:
        choice = "this command has no such choice, cytolith fracture has" if _CHOICES.search(str(error)) else ""
        return _fail("; ".join(filter(None, [str(error), choice, *_left(error)])), 1)
    except KeyboardInterrupt as error:
        return _fail("; ".join(["interrupted", *(_left(error) or ["nothing half-written is left"])]), 130)
    except MemoryError:
        return _fail("the machine has no memory left", 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    for note in result.notes:
        sys.stderr.write(f"Note: {note}.\n")
    for path in result.paths:
        log.info("%s", path)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{NAME}: {message}\n")
    return code


def _left(error: BaseException) -> list[str]:
    """What a run that ended early says about going on."""
    return list(getattr(error, "__notes__", []))
