import re
import subprocess
import sys

import pytest
import torch

from nstorm import cli, info


def test_the_command_prints_the_description(capsys):
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out.startswith("Versions\n  python ")


def test_versions_devices_and_choices(monkeypatch):
    monkeypatch.delenv("NSTORM_SCAN_BACKEND", raising=False)
    text = info.describe()
    for package in ("nstorm", "torch", "numba", "triton", "monai", "mamba-ssm"):
        assert re.search(rf"^  {package} +(\d+\.\d+|not installed)", text, re.MULTILINE), package
    assert re.search(r"^  cpu +\d+ cores, PyTorch's threads: \d+$", text, re.MULTILINE)
    assert "NSTORM_SCAN_BACKEND is not set" in text
    lines = text.splitlines()
    rows = [line.split()[-1] for line in lines if " cpu " in line and "float" in line]
    assert rows == ["numba", "numba", "torch"]
    after = lines[lines.index(next(line for line in lines if "float64   cpu" in line)) + 1 :]
    assert after[0].strip() == "not numba: it computes in float32 and the tensors are float64"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("reference", "cpu     reference"),
        ("numba", "none: backend 'numba' of the environment variable NSTORM_SCAN_BACKEND cannot take this call"),
        ("cuda", "none: backend 'cuda' of the environment variable NSTORM_SCAN_BACKEND is unknown; choose one of"),
    ],
)
def test_choices_follow_the_environment(monkeypatch, value, expected):
    monkeypatch.setenv("NSTORM_SCAN_BACKEND", value)
    text = info.describe()
    assert f"NSTORM_SCAN_BACKEND is set to '{value}'" in text
    assert expected in text


def test_first_call_of_a_process_is_timed():
    code = "from nstorm import info; print(info.describe()); print(info.describe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = re.findall(r"First call of the numba backend\n  (.*)\n  cache in \S.*\n", done.stdout)
    assert re.fullmatch(r"\d+\.\d\d s: (compiled, and cached for the next process|loaded from the cache)", first)
    assert re.fullmatch(r"made before in this process; a call takes \d+\.\d ms", second)


def test_an_error_takes_its_section_only(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(info, "selective_scan", broken)
    text = info.describe()
    assert text.count("cannot be found out: RuntimeError: no driver") == 3
    assert "  python " in text
