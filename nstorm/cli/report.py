"""`nstorm report`: the quality of a store's runs on one page."""

import argparse
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("report", help="write one HTML page on the quality of the runs of a store")
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="PATH", help="default: %(default)s")
    parser.add_argument("--most", type=int, default=50, metavar="N", help="runs with figures (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store, quality_report

    print(quality_report(Store(args.store), args.out, most=args.most))
    return 0
