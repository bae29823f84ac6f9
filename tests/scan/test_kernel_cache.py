import hashlib
from pathlib import Path

from nstorm.scan import numba_kernels


def test_kernels_name_the_contents_of_what_is_compiled_into_them():
    simd = Path(numba_kernels.__file__).with_name("simd.py")
    digest = hashlib.sha256(simd.read_bytes()).hexdigest()[:16]
    assert digest == numba_kernels.SIMD_SHA256, f"set SIMD_SHA256 in numba_kernels.py to {digest!r}"
