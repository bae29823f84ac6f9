"""A folder as fMRIPrep writes it, made from a shipped recording."""

import json
import shutil
from pathlib import Path

import numpy as np

from nstorm.data import haxby_runs

NUM_FRAMES = 121
BAD_FRAMES = [40, 41, 42, 90]


def write_derivatives(folder: Path, *, desc: str = "preproc", num_rows: int = NUM_FRAMES) -> Path:
    """Put an image, its confounds table and the table's description into a folder; give the path of the image."""
    stem = "sub-001_task-objectviewing_run-01"
    image = folder / f"{stem}_space-MNI152NLin2009cAsym_desc-{desc}_bold.nii.gz"
    shutil.copy(haxby_runs()[0].bold, image)
    table = confounds_table(num_rows)
    rows = [
        "\t".join("n/a" if np.isnan(value) else repr(float(value)) for value in row)
        for row in zip(*table.values(), strict=True)
    ]
    path = folder / f"{stem}_desc-confounds_timeseries.tsv"
    path.write_text("\n".join(["\t".join(table), *rows]) + "\n")
    components = {f"a_comp_cor_{i:02d}": {"Mask": "combined", "Method": "aCompCor", "Retained": True} for i in range(3)}
    path.with_suffix(".json").write_text(json.dumps(components))
    # load_bold asks for it
    image.with_name(image.name.replace(".nii.gz", ".json")).write_text(json.dumps({"RepetitionTime": 2.5}))
    return image


def confounds_table(num_rows: int) -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    table = {}
    for name in [
        *(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"),
        "csf",
        "white_matter",
        "global_signal",
    ]:
        series = random.randn(num_rows).cumsum()
        slope = np.diff(series, prepend=np.nan)
        table |= {name: series, f"{name}_derivative1": slope}
        table |= {f"{name}_power2": series**2, f"{name}_derivative1_power2": slope**2}
    for i in range(2):
        table[f"cosine{i:02d}"] = np.cos(np.pi * (i + 1) * (np.arange(num_rows) + 0.5) / num_rows)
    for i in range(3):
        table[f"a_comp_cor_{i:02d}"] = random.randn(num_rows)
    table["framewise_displacement"] = np.where(np.isin(np.arange(num_rows), BAD_FRAMES), 0.9, 0.05)
    table["std_dvars"] = np.ones(num_rows)
    table["framewise_displacement"][0] = table["std_dvars"][0] = np.nan
    for i in range(2):
        table[f"non_steady_state_outlier{i:02d}"] = (np.arange(num_rows) == i).astype(float)
    return table
