"""Build the wheel, install it in a clean environment with the oldest versions it allows, and test it there.

The tests run on a copy outside the checkout, so that only what the wheel holds can be imported. Each dependency is
pinned to its floor in pyproject.toml, which makes every floor a version that is really run.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command, and stop with its exit code if it fails."""
    print("+", *command, flush=True)
    code = subprocess.run(command, cwd=cwd, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Build, install, import and test."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = [requirement.replace(">=", "==") for requirement in project["project"]["dependencies"]]
    if not all(re.fullmatch(r"[\w.-]+==[\d.]+", floor) for floor in floors):
        sys.exit(f"every dependency needs a floor of the form name>=version, got {floors}")

    with tempfile.TemporaryDirectory(prefix="nstorm-wheel-") as name:
        outside = Path(name)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", outside, ROOT, cwd=outside)
        (wheel,) = outside.glob("*.whl")
        venv.create(outside / "env", with_pip=True)
        python = outside / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1", cwd=outside)
        tests = project["dependency-groups"]["test"]
        run(python, "-m", "pip", "install", "--quiet", wheel, *floors, *tests, cwd=outside)

        for folder in ("tests", "tutorials"):
            shutil.copytree(ROOT / folder, outside / folder)
        shutil.copy(ROOT / "pyproject.toml", outside)
        code = (
            "import nstorm, pathlib, nstorm.data; "
            "assert 'site-packages' in nstorm.__file__, nstorm.__file__; "
            "paths = [run.bold for run in nstorm.data.haxby_runs()] + [nstorm.data.rest_run().bold]; "
            "assert len(paths) == 13 and all(pathlib.Path(p).is_file() for p in paths); "
            "print('nstorm', nstorm.__version__, 'finds', len(paths), 'recordings')"
        )
        run(python, "-c", code, cwd=outside)
        # old versions warn about other things than new ones
        options = ["-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", "--disable-warnings"]
        run(python, "-m", "pytest", *options, "tests", cwd=outside)


if __name__ == "__main__":
    main()
