"""The bundle runs as MONAI runs bundles, here with small clips."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import monai
import pytest
import torch

from nstorm.data import prepare, rest_run, run_item
from nstorm.nets import NeuroSTORMMAE, load_pretrained

BUNDLE = Path(__file__).parents[2] / "bundles" / "neurostorm_pretrain"
SMALL = {"image_size": [24, 24, 24], "num_frames": 6, "batch_size": 2, "num_workers": 0}
TRAINING = {**SMALL, "clips_per_run": 4, "max_epochs": 2}

pytestmark = [
    pytest.mark.skipif(not BUNDLE.exists(), reason="the tests of an installed wheel have no bundles beside them"),
    # MONAI's, at every configuration: that it is code, and to be trusted
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the bundle with a store, trained by the command line."""
    root = shutil.copytree(BUNDLE, tmp_path_factory.mktemp("bundle") / "neurostorm_pretrain")
    run = rest_run()
    prepare([run_item(run.bold, mask=run.mask)], root / "store", progress=False)
    command = [sys.executable, "-m", "monai.bundle", "run"]
    files = {name: root / "configs" / file for name, file in FILES.items()}
    for name, value in {**files, "bundle_root": root, **TRAINING}.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 2: loss " in done.stdout
    return root


FILES = {"config_file": "train.yaml", "meta_file": "metadata.json", "logging_file": "logging.conf"}


def run(root, name, **settings):
    config = root / "configs" / name
    try:
        monai.bundle.run(config_file=str(config), bundle_root=str(root), **settings)
    finally:
        monai.utils.set_determinism(None)


def refused(root, name, **settings):
    """What was said first; MONAI says something else after it."""
    with pytest.raises(RuntimeError) as error:
        run(root, name, **settings)
    first = error.value
    while first.__cause__ is not None:
        first = first.__cause__
    return str(first)


def history(root):
    return [json.loads(line) for line in (root / "output" / "history.jsonl").read_text().splitlines()]


def test_training_leaves_history_checkpoints_and_weights(root):
    assert [line["step"] for line in history(root)] == [1, 2, 3, 4]
    assert len(list((root / "output" / "checkpoints").glob("step-*.pt"))) == 2
    net, _ = load_pretrained(root / "models" / "autoencoder.safetensors", "autoencoder")
    assert isinstance(net, NeuroSTORMMAE)
    encoder = torch.load(root / "models" / "model.pt", weights_only=True)
    assert encoder.keys() == net.encoder.state_dict().keys()
    assert torch.equal(encoder["patch_embed.proj.weight"], net.encoder.patch_embed.proj.weight)


def test_the_same_command_finds_nothing_left_to_do(root):
    before = history(root)
    run(root, "train.yaml", **TRAINING)
    assert history(root) == before


def test_other_settings_are_refused_in_the_same_folder(root):
    assert "or another folder): max_epochs is 2 there and 3 here" in refused(
        root, "train.yaml", **{**TRAINING, "max_epochs": 3}
    )


def test_inference_gives_features_of_all_clips(root):
    run(root, "inference.yaml", **SMALL, stride=40)
    lines = [line.split(",") for line in (root / "eval" / "features.csv").read_text().splitlines()]
    # of 200 frames
    assert [line[0] for line in lines] == [f"sub-RAPIDTIDETEST_task-rest_frame-{40 * n}" for n in range(5)]
    features = torch.tensor([[float(value) for value in line[1:]] for line in lines])
    assert features.shape == (5, 288)
    assert features.std(0).min() > 0


def test_inference_without_weights_is_refused(root, tmp_path):
    assert "No such file" in refused(root, "inference.yaml", **SMALL, ckpt_path=str(tmp_path / "model.pt"))


@pytest.mark.parametrize("name", ["train", "inference"])
def test_it_has_all_properties_that_monai_looks_for(root, name):
    config = root / "configs" / f"{name}.yaml"
    meta = root / "configs" / "metadata.json"
    workflow = monai.bundle.ConfigWorkflow(
        str(config), str(meta), workflow_type=name, bundle_root=str(root), logging_file=False, num_workers=0
    )
    workflow.initialize()
    monai.utils.set_determinism(None)
    assert workflow.check_properties() == []
    assert workflow.version == "0.1.0"
    if name == "train":
        assert workflow.max_epochs == 30
        # published
        assert sum(parameter.numel() for parameter in workflow.network_def.parameters()) == 7_712_964
    else:
        assert sum(parameter.numel() for parameter in workflow.network_def.parameters()) == 5_173_020


def test_the_network_takes_and_gives_what_the_metadata_says(root):
    image = "_meta_#network_data_format#inputs#image#spatial_shape"
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(root / "configs" / "metadata.json"),
        config_file=str(root / "configs" / "inference.yaml"),
        device="cpu",
        **{image: [24, 24, 24, 6], "image_size": [24, 24, 24], "num_frames": 6},
    )


def test_metadata_are_as_monai_wants_them(root):
    """Of its schema, which is to be downloaded, what is required."""
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    text, lists = {"type": "string"}, {"type": "array"}
    tensor = {
        "type": "object",
        "properties": {"type": text, "format": text, "num_channels": {"type": "integer"}, "dtype": text},
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    }
    sides = {"type": "object", "additionalProperties": tensor}
    required = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"]
    required += ["task", "description", "authors", "copyright", "network_data_format"]
    schema = {
        "properties": {
            **dict.fromkeys([name for name in required if name != "required_packages_version"], text),
            "required_packages_version": {"type": "object"},
            "references": lists,
            "network_data_format": {
                "type": "object",
                "properties": {"inputs": sides, "outputs": sides},
                "required": ["inputs", "outputs"],
            },
        },
        "required": required,
    }
    jsonschema.validate(metadata, schema)
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [96, 96, 96, 20]
    assert metadata["version"] in metadata["changelog"]
