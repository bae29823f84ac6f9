"""What the first call of the CPU kernels costs a process: compiling them once, then loading them from disk."""

import os
import subprocess
import sys
import tempfile

_CALL = """
import time, torch
from nstorm.scan import selective_scan
x, A = torch.zeros(1, 1, 1, requires_grad=True), torch.zeros(1, 1)
def call(backend):
    start = time.perf_counter()
    selective_scan(x, x, A, x, x, backend=backend).sum().backward()
    return time.perf_counter() - start
call("torch")  # what PyTorch itself does once is not numba's cost
print(call("numba"))
"""


def first_call_seconds() -> tuple[float, float]:
    """Seconds of the first forward + backward in a new process: with an empty cache, and with the cache it left."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        compiled, loaded = (
            float(subprocess.check_output([sys.executable, "-c", _CALL], env=environment)) for _ in range(2)
        )
    return compiled, loaded
