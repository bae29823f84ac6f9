"""`nstorm clean`: take out of a store what killed jobs left."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("clean", help="remove from a store what killed jobs left and what was replaced")
    parser.add_argument("store", metavar="STORE")
    parser.add_argument(
        "--days",
        type=float,
        default=7.0,
        metavar="N",
        help="only what is older, than any job runs (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list it")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store

    for name in Store(args.store).clean(days=args.days, dry_run=args.dry_run):
        print(name)
    return 0
