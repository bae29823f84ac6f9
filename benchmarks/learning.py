"""What masked pre-training learns on real recordings: `python -m benchmarks.learning --data DIR`.

1. Reconstruction: an autoencoder learns from the first part of a run, and fills in hidden tokens of later frames,
   beside the mean of each voxel and straight lines between its visible frames. On the rest run that comes with nstorm
   and on a run of studyforrest's visual localizer.
2. Probes: the encoder pre-trained on rest, frozen, against the same encoder before it was trained (same seed, so the
   same initial weights), on studyforrest, another person, of whom nothing was in the pre-training. Two questions (which
   of six categories of pictures is shown; task or rest) and two readouts: the mean token, which is what the published
   head reads, and all tokens of the brain. Each probe is a logistic regression on the features of single volumes with
   one setting for all, trained on one half of the run and tested on the other, both ways; features of each half are
   z-scored over its own volumes, without labels. Voxels, the means of the same patches and the mean over the brain
   stand beside it.

DIR holds `derived_MNI152_4mm` and `studyforrest-localizer`. Takes 8 minutes on 2 cores; with `--patch 4` 15.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.measure import machine
from nstorm.data import ClipDataset, Recipe, Store, Study, prepare, read_events, run_item
from nstorm.demo.pretraining import PretrainingRecipe, make_autoencoder, prepare_rest_run, pretrain_on
from nstorm.losses.patches import patch_sums
from nstorm.workflows import bootstrap_mean

STUDYFORREST = "derived_MNI152_4mm/studyforrest_sub-02_task-objectcategories_run-1_space-MNI152_res-4mm_{}.nii.gz"
EVENTS = "studyforrest-localizer/sub-02/func/sub-02_task-objectcategories_run-1_desc-blocks_events.tsv"
DELAY = 5.0
# one setting for all: the strength that the recordings' own baselines were computed with
STRENGTH = 0.01
READOUTS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "mean token": lambda features: features.mean(-1),
    "all tokens": lambda features: features,
}


def prepare_studyforrest(data: Path, folder: Path) -> Store:
    """Prepare the run with the line in time taken out (it has 2 blocks of each category, one in each half)."""
    image, mask = (data / STUDYFORREST.format(kind) for kind in ("bold", "desc-brain_mask"))
    item = run_item(image, mask=mask, subject="02")
    return prepare(Study([item]), folder, recipe=Recipe(detrend=1), progress=False)


@dataclass(frozen=True)
class Question:
    """What a probe is asked of volumes: frames, answers, independent units, and which are of the second half."""

    frames: NDArray[np.int64]
    answers: NDArray[np.str_]
    units: NDArray[np.int64]
    second: NDArray[np.bool_]


def questions(data: Path, num_frames: int, tr: float) -> dict[str, Question]:
    """Which category is shown (units: blocks), and whether anything is (units: 20 s), moved by the delay."""
    events = read_events(data / EVENTS)
    shown = np.full(num_frames, -1)
    for block, event in enumerate(events):
        times = np.arange(num_frames) * tr
        shown[(event.onset + DELAY <= times) & (times < event.onset + DELAY + event.duration)] = block
    frames = np.flatnonzero(shown >= 0)
    blocks = shown[frames]
    categories = np.array([event.trial_type for event in events])[blocks]
    # each category has one block among the first six and one among the last
    category = Question(frames, categories, blocks, blocks >= len(events) // 2)
    every = np.arange(num_frames)
    task = np.where(shown >= 0, "task", "rest")
    return {
        "6 categories": category,
        "task or rest": Question(every, task, every // 10, every >= num_frames // 2),
    }


def features_of(encoder: Any, clips: list[tuple[int, Tensor]], mask: Tensor) -> NDArray[np.float64]:
    """Tokens of the brain in the encoder's last stage (frames, channels, tokens)."""
    encoder.eval()
    inside = encoder.token_masks(mask)[-1]
    frames: dict[int, Tensor] = {}
    with torch.no_grad():
        for start, clip in clips:
            tokens = encoder.forward_features(clip, mask)[0][:, inside]
            for t in range(tokens.shape[-1]):
                frames.setdefault(start + t, tokens[..., t])
    return torch.stack([frames[t] for t in sorted(frames)]).double().numpy()


def probe(features: NDArray[np.float64], task: "Question") -> NDArray[np.float64]:
    """Share of the volumes of each unit that are told right, by a regression on the other half of the run."""
    x = features[task.frames].reshape(len(task.frames), -1)
    halves = (task.second, ~task.second)
    for part in halves:
        x[part] = (x[part] - x[part].mean(0)) / (x[part].std(0) + 1e-6)
    right = np.zeros(len(x))
    for part in halves:
        fitted = LogisticRegression(C=STRENGTH, max_iter=3000).fit(x[part], task.answers[part])
        right[~part] = fitted.predict(x[~part]) == task.answers[~part]
    return np.array([right[task.units == unit].mean() for unit in np.unique(task.units)])


def clips_of(store: Store, num_frames: int) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """A run cut into clips, the last of which overlaps the one before; and its mask."""
    dataset = ClipDataset(store, num_frames, stride=1)
    starts = [*range(0, len(dataset), num_frames), len(dataset) - 1]
    items = [dataset[start] for start in starts]
    clips = [(start, item["image"].as_tensor()[None]) for start, item in zip(starts, items, strict=True)]
    return clips, items[0]["mask"].as_tensor()[0]


def main() -> None:
    """Train, judge, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/figures"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=PretrainingRecipe().max_epochs)
    parser.add_argument("--patch", type=int, default=PretrainingRecipe().patch_size[0], help="voxels along an edge")
    args = parser.parse_args()
    # a folder that cannot be made should fail now, not after the training
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = PretrainingRecipe(max_epochs=args.epochs, patch_size=(args.patch,) * 3 + (1,))
    print(f"{machine()}\n{recipe}\n")

    results: dict[str, Any] = {"reconstruction": {}, "probe": {}, "baselines": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rest, task = prepare_rest_run(folder / "rest"), prepare_studyforrest(args.data, folder / "task")
        (rest_run,), (task_run,) = rest.run_items(), task.run_items()
        spans = {"rest": (rest, rest_run, (0, 135), (140, 200)), "studyforrest": (task, task_run, (0, 105), (110, 156))}

        clips, mask = clips_of(task, recipe.num_frames)
        asked = questions(args.data, task_run["num_frames"], task_run["tr"])
        scores: dict[str, dict[str, list[NDArray[np.float64]]]] = {
            f"{question}, {readout}": {"untrained": [], "pre-trained": []} for question in asked for readout in READOUTS
        }

        def ask(kind: str, encoder: Any) -> None:
            features = features_of(encoder, clips, mask)
            for question, volumes in asked.items():
                for readout, read in READOUTS.items():
                    scores[f"{question}, {readout}"][kind].append(probe(read(features), volumes))

        for seed in range(args.seeds):
            torch.manual_seed(seed)
            untrained = make_autoencoder(mask.shape, recipe).encoder
            ask("untrained", untrained)
            for name, (store, run, learn, judge) in spans.items():
                if name == "studyforrest" and seed:
                    continue
                made = pretrain_on(
                    store, run, folder / f"{name}{seed}", learn_from=learn, judge_on=judge, recipe=recipe, seed=seed
                )
                print(f"{name}, seed {seed}: hidden voxels of frames {judge[0]} to {judge[1] - 1}\n{made.errors}")
                if not seed:
                    found = {method: made.errors.mean(method) for method in ("model", "interpolation", "voxel_mean")}
                    found |= {f"below {other}": made.errors.saved(other) for other in ("interpolation", "voxel_mean")}
                    results["reconstruction"][name] = {key: asdict(value) for key, value in found.items()}
                    picture = args.out / f"reconstruction_{name}.png"
                    picture.write_bytes(made.picture.read_bytes())
                if name == "rest":
                    ask("pre-trained", made.mae.encoder)
                    for probed, both in scores.items():
                        means = ", ".join(f"{kind} {values[-1].mean():.3f}" for kind, values in both.items())
                        print(f"probe of {probed}, seed {seed}: {means}", flush=True)

        whole = {start + t: clip[..., t] for start, clip in clips for t in range(clip.shape[-1])}
        series = torch.stack([whole[t][0, 0] for t in sorted(whole)], -1)
        sums = patch_sums(series[None, None], recipe.patch_size)[0, 0]
        baselines = {
            "voxels": series[mask].T.double().numpy(),
            "means of patches": sums[sums.abs().amax(-1) > 0].T.double().numpy(),
            "mean over the brain": series[mask].mean(0).double().numpy()[:, None],
        }
    print("\nprobes of the frozen encoder, accuracy [95 % interval over units]:")
    for probed, both in scores.items():
        found = {kind: bootstrap_mean(np.mean(values, 0)) for kind, values in both.items()}
        gain = bootstrap_mean(np.mean(both["pre-trained"], 0) - np.mean(both["untrained"], 0))
        each = {kind: [float(value.mean()) for value in values] for kind, values in both.items()}
        better = sum(after > before for before, after in zip(*each.values(), strict=True))
        results["probe"][probed] = {kind: asdict(value) for kind, value in found.items()}
        results["probe"][probed] |= {"gain": asdict(gain), "each seed": each}
        print(f"{probed:>26}: " + ", ".join(f"{kind} {value}" for kind, value in found.items()))
        print(f"{'':>26}  gain {gain}, better in {better} of {args.seeds} seeds")
    for question, volumes in asked.items():
        found = {kind: bootstrap_mean(probe(values, volumes)) for kind, values in baselines.items()}
        _, counts = np.unique(volumes.answers, return_counts=True)
        chance = float(counts.max() / counts.sum())
        results["baselines"][question] = {kind: asdict(value) for kind, value in found.items()} | {"chance": chance}
        print(f"{question:>26}: " + ", ".join(f"{kind} {value}" for kind, value in found.items()) + f", {chance:.2f}")
    (args.out / "learning.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results).savefig(args.out / "learning.png", dpi=130)


def draw(results: dict[str, Any]) -> Any:
    """Draw errors and accuracies with their intervals, and the encoders of each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {"model": "#1f6f8b", "interpolation": "#e08e45", "voxel_mean": "#b5542e"}
    names = {
        "model": "masked autoencoder",
        "interpolation": "lines between visible frames",
        "voxel_mean": "mean of each voxel",
    }
    for at, (_, found) in enumerate(results["reconstruction"].items()):
        for shift, (method, colour) in enumerate(colours.items()):
            value = found[method]
            reach = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]]
            label = names[method] if at == 0 else None
            error = {"capsize": 3, "ecolor": "#333333"}
            left.bar(
                at + 0.27 * (shift - 1), value["mean"], 0.25, color=colour, label=label, yerr=reach, error_kw=error
            )
    left.set_xticks(range(len(results["reconstruction"])), results["reconstruction"])
    left.set(ylabel="squared error of hidden voxels, z²", title="frames never trained on")
    left.set_ylim(0, 1.25 * left.get_ylim()[1])
    left.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    for at, both in enumerate(results["probe"].values()):
        each = both["each seed"]
        for seed in range(len(each["untrained"])):
            places = [at - 0.15, at + 0.15]
            right.plot(places, [each[kind][seed] for kind in each], "-", color="#888888", linewidth=0.8)
            for place, kind, colour in zip(places, each, ("#9aa5ab", "#1f6f8b"), strict=True):
                label = kind if at == seed == 0 else None
                right.plot(place, each[kind][seed], "o", color=colour, markersize=5, label=label)
    for at, found in enumerate(results["baselines"].values()):
        for name, style in (("voxels", "--"), ("chance", ":")):
            level = found[name]["mean"] if name == "voxels" else found[name]
            label = name if at == 0 else None
            right.plot([2 * at - 0.4, 2 * at + 1.4], [level] * 2, style, color="#b5542e", linewidth=1, label=label)
    right.set_xticks(range(len(results["probe"])), [name.replace(", ", "\n") for name in results["probe"]], fontsize=8)
    right.set(ylim=(0, 1.05), ylabel="accuracy", title="frozen encoder pre-trained on rest, another person")
    right.legend(fontsize=8, frameon=False, loc="lower right")
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
