"""`nstorm study`: what a study holds, and what is wrong with it; and the options that name a study."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nstorm.data.study.study import Study

FILTERS = {
    "space": "spaces",
    "res": "resolutions",
    "desc": "descriptions, of images in a BIDS folder by default preproc,",
    "task": "tasks",
    "session": "sessions",
    "run": "runs",
    "subjects": "subjects",
}


def add_to(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "study",
        usage="nstorm study STUDY [options]",
        help="list the runs of a study, and all that is wrong with it",
        description=(
            "Find the runs of a study, read every header, and list all problems at once, each with what to do. "
            "The exit code is 1 if there are any but subjects without a run."
        ),
    )
    add_study(parser)
    parser.add_argument("--to-manifest", type=Path, metavar="PATH", help="write the runs to a .csv, .tsv or .json file")
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that is there")
    parser.add_argument("--all", action="store_true", help="name all files of a problem, each on its own line")
    parser.set_defaults(run=_run)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add what names a study and selects from it."""
    parser.add_argument(
        "study", metavar="STUDY", help="a BIDS or fMRIPrep folder, or a .csv, .tsv or .json table of runs"
    )
    chosen = parser.add_argument_group("which runs")
    for name, text in FILTERS.items():
        # args.run is the command's function
        chosen.add_argument(f"--{name}", dest=f"wanted_{name}", nargs="+", metavar="X", help=f"{text} to keep")
    chosen.add_argument("--labels", metavar="TABLE", help="a table of labels, with a row for each subject")
    chosen.add_argument("--no-participants", action="store_true", help="join no labels of participants.tsv")
    chosen.add_argument(
        "--ignore",
        nargs="+",
        default=(),
        metavar="KIND",
        help="kinds of problems to accept, as they are named in the list",
    )
    own = parser.add_argument_group("folders outside BIDS, as those of the HCP")
    own.add_argument(
        "--pattern", metavar="PATTERN", help="of the runs: {subject}/Results/{task}_{dir}/{task}_{dir}.nii.gz"
    )
    for name in ("mask", "confounds", "events"):
        own.add_argument(f"--{name}-pattern", metavar="PATTERN", help=f"of their {name}, with the same fields")


def study_of(args: argparse.Namespace) -> "Study":
    """Find the study that the arguments name."""
    from nstorm.data.study.open import open_study
    from nstorm.data.study.study import Study

    wanted = {name: getattr(args, f"wanted_{name}") for name in FILTERS}
    wanted = {name: values for name, values in wanted.items() if values is not None}
    companions = {name: getattr(args, f"{name}_pattern") for name in ("mask", "confounds", "events")}
    if args.pattern is None and any(companions.values()):
        raise ValueError("the patterns of masks, confounds and events go with one of the runs: give --pattern too")
    if args.pattern is None:
        study = open_study(args.study, participants=False if args.no_participants else None, **wanted)
    else:
        study = Study.from_pattern(args.study, args.pattern, **companions)
        study = study.where(**wanted) if wanted else study
    return study if args.labels is None else study.join(args.labels)


def _run(args: argparse.Namespace) -> int:
    study = study_of(args)
    if args.to_manifest is not None:
        study.to_manifest(args.to_manifest, overwrite=args.overwrite)
        print(f"{len(study):,} runs in {args.to_manifest}")
    print(study, flush=True)
    report = study.check(errors="report", ignore=args.ignore)
    print(report)
    for problem in report.problems if args.all else ():
        print("", f"{problem.kind}: {problem.what}:", *problem.files, sep="\n")
    return 0 if all(problem.is_note for problem in report.problems) else 1
