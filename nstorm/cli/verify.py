"""`nstorm verify`: whether a store is whole."""

import argparse
from typing import Any

from nstorm.cli.numbers import at_least


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "verify",
        usage="nstorm verify STORE [options]",
        help="read a whole store, and list all that is damaged",
        description="Read all of a store and compare it with its checksums. The exit code is 1 if anything is wrong.",
    )
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--workers", type=at_least(1), default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument(
        "--remove", action="store_true", help="take damaged runs out of the store, so that they are prepared again"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store

    store = Store(args.store)
    found = store.verify(workers=args.workers)
    print(found)
    if args.remove:
        store.remove({damage.key for damage in found})
        print(f"what is left: {store}")
    return 1 if found else 0
