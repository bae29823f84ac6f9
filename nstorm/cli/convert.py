"""`nstorm convert`: from the published format to a store."""

import argparse
import sys
from typing import Any

from nstorm.cli.work import add_work, work_of


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "convert",
        usage="nstorm convert DIR STORE [options]",
        help="put folders of data.pt or frame_*.pt, the published format, into a store",
        description="Convert every folder of data.pt or frame_*.pt below a folder. Nothing in the files is executed.",
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--pattern", metavar="PATTERN", help="what names say, as {subject}_{task}_{dir}/data.pt")
    parser.add_argument("--labels", metavar="TABLE", help="a table of labels, with a row for each subject")
    parser.add_argument("--tr", type=float, default=0.8, metavar="S", help="repetition time (default: %(default)s)")
    parser.add_argument("--like", metavar="IMAGE", help="an image on the same grid, if it is not 91 x 96 x 91 voxels")
    add_work(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import PrepareError, Study, convert_published, grid_of, published_runs

    study = published_runs(args.folder) if args.pattern is None else Study.from_pattern(args.folder, args.pattern)
    try:
        store = convert_published(
            study if args.labels is None else study.join(args.labels),
            args.store,
            tr=args.tr,
            affine=None if args.like is None else grid_of(args.like).affine,
            **work_of(args),
        )
    except PrepareError as error:
        print(f"nstorm: {error}", file=sys.stderr)
        print(error.store)
        return 1
    print(store)
    return 0
