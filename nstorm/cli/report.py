"""`nstorm report`: the quality of a store's runs on one page."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nstorm.cli.numbers import at_least

if TYPE_CHECKING:
    from nstorm.data import Store

DEFAULT = "default: STORE/report.html, or report.html here for a store at a URL"


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "report",
        usage="nstorm report STORE [options]",
        help="write one HTML page on the quality of the runs of a store",
        description="Write one HTML page on the quality of the runs of a store; one that is there is replaced.",
    )
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--out", type=Path, metavar="PATH", help=DEFAULT)
    parser.add_argument(
        "--most", type=at_least(0), default=50, metavar="N", help="runs with figures (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


def page_of(store: "Store") -> Path:
    """Say where the page of a store goes if nobody says otherwise."""
    return Path(store.place.url, "report.html") if store.place.local else Path("report.html")


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import Store, quality_report

    store = Store(args.store)
    print(quality_report(store, args.out or page_of(store), most=args.most))
    return 0
