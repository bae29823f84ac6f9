"""`nstorm prepare`: from a study to a store."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nstorm.cli.numbers import at_least
from nstorm.cli.report import DEFAULT, page_of
from nstorm.cli.study import add_study, study_of
from nstorm.cli.work import add_work, work_of

if TYPE_CHECKING:
    from nstorm.data import Store


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "prepare",
        usage="nstorm prepare STUDY STORE [options]",
        help="prepare the runs of a study, once, into a store that clips are streamed from",
        description=(
            "Prepare every run of a study into a store, and write a report on its quality. The same command goes on "
            "where a killed one stopped. A run that fails is reported with its reason, and the others go on; the exit "
            "code is then 1."
        ),
    )
    add_study(parser)
    parser.add_argument("store", metavar="STORE", help="a folder, or a URL such as s3://bucket/store")
    done = parser.add_argument_group("what is done with a run")
    done.add_argument(
        "--preset",
        default="native",
        choices=("native", "4mm", "published"),
        help="native: its own grid and TR; 4mm: MNI152 at 4 mm; published: what the published weights expect "
        "(default: %(default)s)",
    )
    done.add_argument("--spacing", type=float, metavar="MM", help="voxels of another size")
    done.add_argument("--tr", type=float, metavar="S", help="another repetition time")
    done.add_argument(
        "--dummy-scans", type=at_least(0), metavar="N", help="frames to leave out at the start of every run"
    )
    done.add_argument("--confounds", metavar="STRATEGY", help="regress out confounds of fMRIPrep, as simple or compcor")
    done.add_argument("--high-pass", type=float, metavar="HZ", help="take slower changes out")
    done.add_argument("--low-pass", type=float, metavar="HZ", help="take faster changes out")
    done.add_argument(
        "--fill-nan", type=float, metavar="X", help="put X in place of NaN, as SPM marks what is no brain"
    )
    done.add_argument(
        "--dtype", choices=("int8", "int16", "float16", "float32"), help="how values are kept (default: int8)"
    )
    work = add_work(parser)
    work.add_argument("--report", type=Path, metavar="PATH", help=f"where the report goes ({DEFAULT})")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from nstorm.data import PRESETS, PrepareError, prepare

    changed = ("spacing", "tr", "dummy_scans", "confounds", "high_pass", "low_pass", "fill_nan", "dtype")
    changes = {name: getattr(args, name) for name in changed if getattr(args, name) is not None}
    recipe = PRESETS[args.preset].but(**changes)
    study = study_of(args)
    # hours before what follows it
    print(study, flush=True)
    failed = 0
    try:
        store = prepare(
            study,
            args.store,
            recipe=recipe,
            ignore=args.ignore,
            **work_of(args),
        )
    except PrepareError as error:
        print(f"nstorm: {error}", file=sys.stderr)
        store, failed = error.store, 1
    print(store)
    if args.part is None or args.report is not None:
        _report(store, args.report or page_of(store))
    else:
        print(f"report: when all parts are done, nstorm report {store.place}")
    return failed


def _report(store: "Store", path: Path) -> None:
    from nstorm.data import quality_report

    if not len(store):
        return
    try:
        print(f"report: {quality_report(store, path)}")
    except Exception as error:
        # the runs are prepared all the same
        print(
            f"nstorm: no report was written to {path} ({type(error).__name__}: {error}): "
            f"nstorm report {store.place} --out PATH writes one",
            file=sys.stderr,
        )
