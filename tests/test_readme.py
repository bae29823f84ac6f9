import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if README.exists() else []


@pytest.mark.skipif(not README.exists(), reason="the tests of an installed wheel have no README beside them")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_in_the_readme_runs(block):
    exec(compile(block, str(README), "exec"), {"__name__": "readme"})


def test_there_is_code():
    assert len(BLOCKS) >= 4 or not README.exists()
