"""The demo's report: results.json, figures, and one self-contained HTML page."""

import base64
import json
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from platform import platform, python_version
from typing import Any

import jinja2
from markupsafe import Markup

from nstorm.demo import figures
from nstorm.demo.experiment import Recipe, Results, cropped_images, num_threads
from nstorm.demo.model import BlockDecoder
from nstorm.demo.pretraining import Pretraining
from nstorm.demo.recording import Recording

_PACKAGES = ("nstorm", "torch", "monai", "numba", "numpy", "scikit-learn", "nibabel")


def verdict(results: Results) -> str:
    """Say in one sentence who wins: the model against the better of the baselines."""
    model, *baselines = results.methods
    best = max(baselines, key=lambda method: results.accuracy(method).mean)
    advantage, count = results.advantage(best), len(results.tested)
    scores = (
        f"{int(results.correct(model).sum())} of {count} unseen blocks against "
        f"{int(results.correct(best).sum())} for the best linear baseline ({best})"
    )
    p = results.sign_test(best)
    interval = f"[{advantage.low:+.2f}, {advantage.high:+.2f}]"
    numbers = f"nstorm classifies {scores}; difference {advantage.mean:+.2f} {interval}, sign test p = {p:.2g}."
    if p < 0.05:
        return f"The {'nstorm model' if advantage.mean > 0 else 'baseline'} wins: {numbers}"
    if advantage.mean < 0:
        return f"The baseline is ahead, by less than can be told apart: {numbers}"
    return f"The nstorm model and the best baseline are level: {numbers}"


def write_report(
    folder: Path,
    recording: Recording,
    results: Results,
    recipe: Recipe,
    net: BlockDecoder,
    seconds: float,
    pretraining: Pretraining | None = None,
) -> Path:
    """Write everything into the folder and return the path of the HTML page."""
    config = {
        "recording": recording.name,
        "recipe": asdict(recipe),
        "patch_size": net.patch_size,
        "window_size": net.window_size,
        "seed": results.seed,
        "threads": num_threads(cropped_images(recording)),
        "versions": {name: version(name) for name in _PACKAGES} | {"python": python_version(), "platform": platform()},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    numbers = _numbers(recording, results)
    if pretraining is not None:
        numbers["pretraining"] = _reconstruction(pretraining)
    (folder / "results.json").write_text(json.dumps(numbers, indent=2))

    drawn = {
        "accuracy": figures.accuracy_figure(results),
        "confusion": figures.confusion_figure(results),
        "loss": figures.loss_figure(results),
        "recording": figures.recording_figure(recording),
    }
    encoded = {}
    for name, figure in drawn.items():
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        (folder / f"{name}.png").write_bytes(buffer.getvalue())
        encoded[name] = base64.b64encode(buffer.getvalue()).decode()
    if pretraining is not None:
        encoded["reconstruction"] = base64.b64encode(pretraining.picture.read_bytes()).decode()

    def embed(name: str, text: str) -> Markup:
        source = f"data:image/png;base64,{encoded[name]}"
        return Markup('<figure><img alt="{0}" src="{1}"><figcaption class="note">{0}</figcaption></figure>').format(
            text, source
        )

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(files("nstorm.demo").joinpath("report.html").read_text()).render(
        verdict=verdict(results),
        recording=recording,
        results=results,
        recipe=recipe,
        net={
            "patch_size": net.patch_size,
            "window_size": net.window_size,
            "parameters": sum(p.numel() for p in net.parameters()),
        },
        chooses=bool(recording.folds[0].choose),
        seconds=seconds,
        config=json.dumps(config, indent=2),
        figure=embed,
        pretraining=pretraining,
    )
    path = folder / "report.html"
    path.write_text(page)
    return path


def _reconstruction(pretraining: Pretraining) -> dict[str, Any]:
    errors = pretraining.errors
    return {
        "learned_from_frames": pretraining.learned_from,
        "judged_on_frames": pretraining.judged_on,
        "squared_error": {name: asdict(errors.mean(name)) for name in ("model", "interpolation", "voxel_mean")},
        "below": {name: asdict(errors.saved(name)) for name in ("interpolation", "voxel_mean")},
    }


def _numbers(recording: Recording, results: Results) -> dict[str, Any]:
    return {
        "verdict": verdict(results),
        "labels": results.labels,
        "chance": results.chance,
        "accuracy": {method: asdict(results.accuracy(method)) for method in results.methods},
        "nstorm_minus": {
            method: asdict(results.advantage(method)) | {"sign_test_p": results.sign_test(method)}
            for method in results.methods[1:]
        },
        "correct_on_untouched_blocks": {
            method: [results.count(method, recording.untouched), len(recording.untouched)] for method in results.methods
        },
        "folds": [
            {
                "settings": fold.settings,
                "kept_epochs": [history.kept_epoch for history in fold.histories],
                "blocks": [
                    {
                        "run": recording.blocks[index].run,
                        "onset": recording.blocks[index].onset,
                        "shown": results.labels[recording.blocks[index].label],
                        "log_probabilities": {
                            method: values[row].tolist() for method, values in fold.log_probabilities.items()
                        },
                    }
                    for row, index in enumerate(fold.test)
                ],
            }
            for fold in results.folds
        ],
    }
