"""Run the demo from a recording to its report."""

import time
from pathlib import Path

from nstorm.demo.experiment import Recipe, cropped_images, run_experiment
from nstorm.demo.model import BlockDecoder
from nstorm.demo.pretraining import PretrainingRecipe, pretrain_on_rest
from nstorm.demo.recording import Recording
from nstorm.demo.report import verdict, write_report


def run_demo(
    folder: Path,
    recording: Recording,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    pretraining: PretrainingRecipe | None = None,
) -> Path:
    """Train and test on a recording, print the outcome and write the report.

    Args:
        folder: where everything is written; made if it does not exist.
        recording: from `haxby_recording` or `recording_from_file`.
        seed: of all random numbers.
        recipe: settings of the training.
        pretraining: settings of a masked pre-training on the rest run that ships with nstorm; None for none.

    Returns:
        The path of the report, an HTML page.
    """
    recipe = recipe or Recipe()
    started = time.perf_counter()
    # a folder that cannot be written to should fail now, not after the training
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{recording.name}\n{recording.about}\nSplits: {recording.split}.")
    results = run_experiment(recording, recipe=recipe, seed=seed)
    net = BlockDecoder(cropped_images(recording).shape[2:], len(recording.labels))
    pretrained = None
    if pretraining is not None:
        print("Masked pre-training on a whole brain at rest:")
        pretrained = pretrain_on_rest(folder, pretraining, seed=seed)
        print(pretrained)
    page = write_report(folder, recording, results, recipe, net, time.perf_counter() - started, pretrained)
    for method in results.methods:
        print(f"{method:>20}: {results.accuracy(method)}")
    print(f"{'chance':>20}: {results.chance:.2f}")
    print(f"{verdict(results)}\nReport: {page}")
    return page
