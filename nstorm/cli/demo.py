"""`nstorm demo`: learn what a person was looking at."""

import argparse
from pathlib import Path
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "demo",
        help="learn what a person was looking at, beside linear baselines, and write a report",
        description=(
            "Train a shifted-window Mamba model to tell from BOLD what a person was looking at, test it on runs it has "
            "never seen beside linear baselines, and write figures, numbers and one HTML page. Without --recording it "
            "uses the runs that ship with nstorm, and pre-trains a masked autoencoder on a whole brain at rest besides."
        ),
    )
    parser.add_argument("--recording", type=Path, metavar="PATH", help="a labelled BOLD run of your own (NIfTI)")
    parser.add_argument("--events", type=Path, metavar="PATH", help="its events.tsv, if it is not beside it")
    parser.add_argument("--mask", type=Path, metavar="PATH", help="its brain mask, if it is not beside it")
    parser.add_argument(
        "--delay", type=float, metavar="S", help="seconds from a stimulus to its response in your run (default: 5)"
    )
    parser.add_argument("--out", type=Path, default=Path("nstorm_demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    own = [name for name in ("events", "mask", "delay") if getattr(args, name) is not None]
    if own and args.recording is None:
        raise ValueError(f"--{own[0]} belongs to a recording of your own: give --recording too")
    from nstorm import demo

    pretraining = None
    if args.recording is None:
        recording, pretraining = demo.haxby_recording(), demo.PretrainingRecipe()
    else:
        delay = 5.0 if args.delay is None else args.delay
        recording = demo.recording_from_file(args.recording, events=args.events, mask=args.mask, delay=delay)
    args.out.mkdir(parents=True, exist_ok=True)
    demo.run_demo(args.out, recording, seed=args.seed, pretraining=pretraining)
    return 0


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < 2**31:
        raise argparse.ArgumentTypeError(f"{seed} is no seed: give a number from 0 to {2**31 - 1}")
    return seed
