"""What is wrong with the runs of a study as far as their items tell."""

from collections.abc import Collection, Iterator, Sequence

from nstorm.data.clips.items import IDENTITY, image_file, recording_of
from nstorm.data.files.bids_name import bids_entities
from nstorm.data.study.check_duplicates import duplicate_problems
from nstorm.data.study.labels import Joined
from nstorm.data.study.problem import Problem
from nstorm.data.study.selection import item_key, plain
from nstorm.data.study.table import Row, is_unknown
from nstorm.data.wording import counted

_COMPANIONS = {
    "mask": ("no brain mask", "put *_desc-brain_mask.nii.gz of the same space and resolution beside the image"),
    "confounds": ("no confounds", "put *_desc-confounds_timeseries.tsv beside the image"),
    "sidecar": ("no JSON sidecar", "put it beside the image, which otherwise has to state its TR in its header"),
}
# the entities that an image and what lies beside it have in common, where both have them
_SHARED = {
    "mask": (*IDENTITY.values(), "space"),
    "confounds": tuple(IDENTITY.values()),
    "events": tuple(IDENTITY.values()),
}
_OTHERWISE = "or name the file in a manifest, or leave these runs out"


def item_problems(runs: Sequence[Row], joined: Sequence[Joined], labels: Collection[str]) -> Iterator[Problem]:
    """List what is wrong: no subject, two runs of one name, missing files, files of other runs, missing labels.

    Args:
        runs: The items.
        joined: The tables that gave labels.
        labels: Labels that every run has to have.
    """
    yield from _without_subject(runs)
    yield from duplicate_problems(runs)
    for key, (lacking, remedy) in _COMPANIONS.items():
        files = tuple(run["image"] for run in runs if key in run and is_unknown(run[key]))
        if files:
            yield Problem(key, f"{counted(len(files), 'run')} with {lacking}", f"{remedy}, {_OTHERWISE}", files)
    yield from _without_events(runs)
    yield from _of_another_run(runs)
    yield from _without_labels(runs, joined, labels)


def _without_subject(runs: Sequence[Row]) -> Iterator[Problem]:
    if files := tuple(run["image"] for run in runs if not run["subject"]):
        remedy = "name it in the manifest, by a field {subject} of the pattern, or in a BIDS file name"
        yield Problem("subject", f"{counted(len(files), 'run')} without a subject", remedy, files)


def _of_another_run(runs: Sequence[Row]) -> Iterator[Problem]:
    for key, entities in _SHARED.items():
        cases = [run for run in runs if run.get(key) and _contradict(run["image"], run[key], entities)]
        if cases:
            what = f"{counted(len(cases), 'file')} of {key} named after another run than the image"
            remedy = f"see whether the rows of a manifest are shifted, or ignore {key!r} if they belong together"
            yield Problem(key, what, remedy, tuple(run[key] for run in cases))


def _contradict(image: str, companion: str, entities: Collection[str]) -> bool:
    first, second = bids_entities(image), bids_entities(companion)
    return any(
        plain(item_key(name), first[name]) != plain(item_key(name), second[name])
        for name in entities
        if name in first and name in second
    )


def _without_events(runs: Sequence[Row]) -> Iterator[Problem]:
    tasks = {run["task"] for run in runs if run.get("events")}
    if files := tuple(run["image"] for run in runs if run["task"] in tasks and not run.get("events")):
        what = f"{counted(len(files), 'run')} with no events, of tasks that have them elsewhere"
        yield Problem("events", what, f"put *_events.tsv beside the raw image, {_OTHERWISE}", files)


def _without_labels(runs: Sequence[Row], joined: Sequence[Joined], labels: Collection[str]) -> Iterator[Problem]:
    for table in joined:
        bare = [run for run in runs if all(is_unknown(run.get(label)) for label in table.labels)]
        if bare:
            names = tuple(dict.fromkeys(recording_of({"subject": run["subject"]}) or image_file(run) for run in bare))
            remedy = "add their rows, or leave these subjects out"
            yield Problem("label", f"{counted(len(names), 'subject')} without a row in {table.name}", remedy, names)
    for label in labels:
        if files := tuple(run["image"] for run in runs if is_unknown(run.get(label))):
            yield Problem(
                "label", f"{counted(len(files), 'run')} without {label}", "add it, or leave these runs out", files
            )
