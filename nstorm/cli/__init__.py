"""The command line: one module for each command."""

import argparse
import sys
from collections.abc import Sequence

from nstorm import __version__
from nstorm.cli import clean, convert, demo, export, info, prepare, report, study, verify

COMMANDS = (demo, info, study, prepare, report, verify, export, convert, clean)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nstorm", description="Building blocks for deep learning on 4D fMRI.")
    parser.add_argument("--version", action="version", version=f"nstorm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends with one sentence and exit code 2."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OSError, ValueError) as error:
        print(f"nstorm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
