"""`nstorm info`: what runs here."""

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser("info", help="print versions, devices, and which backend runs the scan here")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm import info

    print(info.describe())
    return 0
