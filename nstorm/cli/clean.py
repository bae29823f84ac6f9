"""`nstorm clean`: take out of a store what killed jobs left."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "clean",
        usage="nstorm clean STORE [options]",
        help="remove from a store what killed jobs left and what was replaced",
        description="Remove what killed jobs left in a store, and runs that were replaced. What is removed is listed.",
    )
    parser.add_argument("store", metavar="STORE")
    parser.add_argument(
        "--days",
        type=float,
        default=7.0,
        metavar="N",
        help="only what is of no use for longer than N days; no job may run for longer (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list it")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store
    from nstorm.data.wording import counted

    store = Store(args.store)
    names = store.clean(days=args.days, dry_run=args.dry_run)
    for name in names:
        print(name)
    print(f"{store}: {counted(len(names), 'leftover')} {'found' if args.dry_run else 'removed'}")
    return 0
