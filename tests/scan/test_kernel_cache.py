"""Numba's disk cache is keyed by the contents of a kernel's own file: what it imports must be named in it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nstorm.scan
from nstorm.scan import conv_kernels, numba_kernels

FOLDER = Path(nstorm.scan.__file__).parent


@pytest.mark.parametrize("kernels", [numba_kernels, conv_kernels])
def test_kernels_name_the_contents_of_what_they_are_compiled_with(kernels):
    digest = hashlib.sha256()
    for name in kernels.SOURCES:
        digest.update((FOLDER / name).read_bytes())
    assert digest.hexdigest()[:16] == kernels.SOURCES_SHA256, "copy this to SOURCES_SHA256"


@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_kernels_without_avx512(cpu, tmp_path):
    """Other CPUs take other code paths; LLVM generates theirs on this one."""
    if cpu == "haswell" and "x86" not in os.uname().machine:
        pytest.skip("an x86 CPU")
    code = (
        "import torch; from tests.scan.test_selective_scan import *\n"
        "inputs = make_inputs(3, 21, 70, 6) | {'initial_state': torch.randn(3, 21, 6)}\n"
        "flags = {'token_mask': torch.rand(3, 70) < 0.7, 'reset': torch.rand(3, 70) < 0.1}\n"
        "expected = run({k: x.double() for k, x in inputs.items()}, backend='reference', **flags)\n"
        "assert_close(run(inputs, backend='numba', **flags), expected)\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env=environment)
