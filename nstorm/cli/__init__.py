"""The command line: one module for each command."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from nstorm import __version__
from nstorm.cli import clean, convert, demo, export, info, prepare, report, study, verify

COMMANDS = (demo, info, study, prepare, report, verify, export, convert, clean)


class _CommandParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if "arguments are required" in message:
            # an option of several values takes all that follow it
            message += " (they come before the options)"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nstorm", description="Building blocks for deep learning on 4D fMRI.")
    parser.add_argument("--version", action="version", version=f"nstorm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends with one sentence and exit code 2."""
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            code = int(args.run(args))
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # who reads the output has enough of it, as head does; what is left of it must not fail again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (OSError, ValueError) as error:
            print(f"nstorm: {_sentence(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130


def _warn(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"nstorm: {message}", file=sys.stderr, flush=True)


def _sentence(error: Exception) -> str:
    """Write an error without the number that the system gives it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename2 or error.filename}: {error.strerror}"
    return str(error)
