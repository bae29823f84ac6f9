"""`nstorm export`: from a store back to NIfTI."""

import argparse
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "export",
        usage="nstorm export STORE DIR [options]",
        help="write runs of a store as NIfTI, with masks and sidecars",
    )
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--runs", nargs="+", metavar="KEY", help="as sub-01_task-rest_run-1 (default: all)")
    parser.add_argument(
        "--normalize", default="none", choices=("none", "zscore", "percent", "global"), help="default: %(default)s"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store
    from nstorm.data.wording import counted, some_of

    store = Store(args.store)
    if unknown := [key for key in args.runs or () if key not in store]:
        raise ValueError(f"{store.place} has no run {some_of(unknown, 3)}; it has {some_of(list(store), 3) or 'none'}")
    images = store.export(args.folder, args.runs, normalize=args.normalize, overwrite=args.overwrite)
    print(f"{counted(len(images), 'run')} in {args.folder}")
    return 0
