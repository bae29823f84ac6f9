"""`nstorm verify`: whether a store is whole."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "verify",
        help="read a whole store, and list all that is damaged",
        description="Read all of a store and compare it with its checksums. The exit code is 1 if anything is wrong.",
    )
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data.store.store import Store
    from nstorm.data.store.verify import verify

    store = Store(args.store)
    problems = verify(store, workers=args.workers)
    for problem in problems:
        print(problem)
    print(f"{store}: {len(problems)} problem{'s' * (len(problems) != 1)}")
    return 1 if problems else 0
