"""The command line: `nstorm demo` and `nstorm info`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nstorm import __version__


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**31:
        raise argparse.ArgumentTypeError(f"{seed} is no seed: give a number from 0 to {2**31 - 1}")
    return seed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nstorm", description="Building blocks for deep learning on 4D fMRI.")
    parser.add_argument("--version", action="version", version=f"nstorm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="learn what a person was looking at, beside linear baselines, and write a report",
        description=(
            "Train a shifted-window Mamba model to tell from BOLD what a person was looking at, test it on runs it has "
            "never seen beside linear baselines, and write figures, numbers and one HTML page. Without --recording it "
            "uses the runs that ship with nstorm."
        ),
    )
    demo.add_argument("--recording", type=Path, metavar="PATH", help="a labelled BOLD run of your own (NIfTI)")
    demo.add_argument("--events", type=Path, metavar="PATH", help="its events.tsv, if it is not beside it")
    demo.add_argument("--mask", type=Path, metavar="PATH", help="its brain mask, if it is not beside it")
    demo.add_argument(
        "--delay", type=float, metavar="S", help="seconds from a stimulus to its response in your run (default: 5)"
    )
    demo.add_argument("--out", type=Path, default=Path("nstorm_demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    commands.add_parser("info", help="print versions, devices, and which backend runs the scan here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input ends with one sentence and exit code 2."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "info":
        from nstorm import info

        print(info.describe())
        return 0
    own = [name for name in ("events", "mask", "delay") if getattr(args, name) is not None]
    if own and args.recording is None:
        parser.error(f"--{own[0]} belongs to a recording of your own: give --recording too")
    from nstorm import demo

    try:
        if args.recording is None:
            recording = demo.haxby_recording()
        else:
            delay = 5.0 if args.delay is None else args.delay
            recording = demo.recording_from_file(args.recording, events=args.events, mask=args.mask, delay=delay)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"nstorm: {error}", file=sys.stderr)
        return 2
    demo.run_demo(args.out, recording, seed=args.seed)
    return 0
