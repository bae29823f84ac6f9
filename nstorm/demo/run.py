"""Run the demo from start to report."""

import time
from pathlib import Path

from nstorm.demo.experiment import Recipe, cropped_images, run_experiment
from nstorm.demo.model import BlockDecoder
from nstorm.demo.recording import haxby_recording, recording_from_file
from nstorm.demo.report import verdict, write_report


def run_demo(
    folder: Path,
    *,
    recording: Path | None = None,
    events: Path | None = None,
    mask: Path | None = None,
    delay: float = 5.0,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Path:
    """Train and test on a recording and write the report.

    Args:
        folder: where everything is written; made if it does not exist.
        recording: a labelled BOLD run; the embedded Haxby runs if None.
        events: its `events.tsv`; the one beside it if None.
        mask: its brain mask; the one beside it, if any.
        delay: its haemodynamic delay in seconds.
        seed: of all random numbers.
        recipe: settings of the training.

    Returns:
        The path of the report, an HTML page.
    """
    recipe = recipe or Recipe()
    started = time.perf_counter()
    # a folder that cannot be written to should fail now, not after the training
    folder.mkdir(parents=True, exist_ok=True)
    if recording is None:
        loaded = haxby_recording()
    else:
        loaded = recording_from_file(recording, events=events, mask=mask, delay=delay)
    print(f"{loaded.name}\n{loaded.about}\nSplits: {loaded.split}.")
    results = run_experiment(loaded, recipe=recipe, seed=seed)
    net = BlockDecoder(cropped_images(loaded).shape[2:], len(loaded.labels))
    page = write_report(folder, loaded, results, recipe, net, time.perf_counter() - started)
    for method in results.methods:
        print(f"{method:>20}: {results.accuracy(method)}")
    print(f"{'chance':>20}: {results.chance:.2f}")
    print(f"{verdict(results)}\nReport: {page}")
    return page
