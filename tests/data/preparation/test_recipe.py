import hashlib
import json
from dataclasses import asdict

import pytest

from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.recipe import STEPS, Recipe


def test_presets_differ():
    assert len({recipe.digest for recipe in PRESETS.values()}) == len(PRESETS) == 3
    assert PRESETS["native"] == Recipe()


def test_digest_is_of_the_values():
    recipe = Recipe(spacing=3.0, tr=2.0, confounds="simple", confound_options={"motion": "basic"})
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))).digest == recipe.digest
    assert recipe.but(tr=1.0).but(tr=2.0).digest == recipe.digest
    for other in ({"tr": 2.5}, {"confound_options": {}}, {"dtype": "float32"}, {"axcodes": "LAS"}, {"fill_nan": 0.0}):
        assert recipe.but(**other).digest != recipe.digest
    assert hash(recipe) == hash(recipe.but(confound_options={}))


def test_a_step_that_is_not_taken_changes_no_digest():
    # or a new option of nstorm would make all runs of a store those of another recipe
    recipe = Recipe(tr=2.0)
    expected = hashlib.sha256(json.dumps({"steps": STEPS, "tr": 2.0}).encode()).hexdigest()
    assert expected.startswith(recipe.digest)


def test_case_of_axcodes_makes_no_difference():
    assert Recipe(axcodes="las").digest == Recipe(axcodes="LAS").digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"axcodes": "RAX"}, "axcodes is 'RAX', but it has to name one of L and R"),
        ({"spacing": 0.0}, "spacing is 0.0, but it has to be a number of mm above 0"),
        ({"grid": "mni152"}, "grid is 'mni152', but spacing is not given: give the size of its voxels in mm"),
        ({"dummy_scans": -1}, "dummy_scans is -1, but it has to be a number of frames, 0 or more"),
        ({"detrend": -1}, "detrend is -1, but it has to be the order of a polynomial, 0 or more"),
        ({"low_pass": 0.0}, r"low_pass is 0.0 Hz, but it has to be a frequency above 0"),
        ({"low_pass": 0.01, "high_pass": 0.1}, r"low_pass \(0.01 Hz\) has to be above high_pass \(0.1 Hz\)"),
        ({"tr": 2000.0}, "tr is 2000.0 s, but it has to lie between 0.1 and 20 s: give it in seconds"),
        ({"fill_nan": float("nan")}, "fill_nan is nan, but it has to be a number"),
        ({"confound_options": {"motion": "basic"}}, "confound_options are given, but no confounds"),
        (
            {"confounds": "simple", "confound_options": {"motion": object()}},
            "confound_options hold what JSON cannot .*: give text and numbers",
        ),
        (
            {"published": True, "tr": 2.0, "spacing": 3.0},
            "spacing is 3.0, but the published preparation fixes voxels, TR and steps: leave out spacing, tr, or",
        ),
    ],
)
def test_values_without_a_meaning(values, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**values)


def test_values_of_another_kind():
    # with the type checker of the tests, the constructor refuses them before the recipe does
    recipe = Recipe(confounds="simple")
    for name, value in (("grid", "mni"), ("dtype", "int4"), ("confounds", "36P")):
        object.__setattr__(recipe, name, value)
        with pytest.raises(ValueError, match=f"{name} is '{value}', but it has to be one of '"):
            recipe.__post_init__()
        object.__setattr__(recipe, name, getattr(Recipe(confounds="simple"), name))


def test_published_may_be_turned():
    assert PRESETS["published"].but(axcodes="RAS", dtype="int16", fill_nan=0.0).published
    with pytest.raises(ValueError, match="leave out tr, or published=True"):
        PRESETS["published"].but(tr=2.0)
