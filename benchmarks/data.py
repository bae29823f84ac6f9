"""Data, one table after the other: `python -m benchmarks.data`.

Reading a clip from a run on disk (`benchmarks.reading`), augmenting a batch (`benchmarks.augmentation`), and the store
beside the published format (`benchmarks.store`). Each runs in a process of its own and takes arguments of its own.
"""

import subprocess
import sys


def main() -> None:
    """Print the tables."""
    for name in ("reading", "augmentation", "store"):
        print(f"\n## {name}\n", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
