import numpy as np
import pandas
import pytest

from nstorm.data.report.outliers import RULES, flags_of


def _table(num_runs: int = 40, seed: int = 0) -> pandas.DataFrame:
    random = np.random.default_rng(seed)
    return pandas.DataFrame(
        {
            "task": "rest",
            "site": "",
            "tr": 0.8,
            "num_frames": random.integers(380, 400, num_runs),
            "grid": "one",
            "tsnr": random.normal(80, 5, num_runs),
            "dvars": random.normal(1.05, 0.03, num_runs),
            "dvars_share": random.uniform(0, 0.03, num_runs),
            "displaced_share": random.uniform(0, 0.06, num_runs),
            "volume": random.normal(1400, 90, num_runs),
            "overlap": random.normal(0.97, 0.005, num_runs),
        }
    )


def test_of_clean_runs_next_to_none_is_flagged() -> None:
    flagged = [bool(reasons) for seed in range(30) for reasons in flags_of(_table(seed=seed))]
    assert np.mean(flagged) < 0.005


PLANTED = {
    "tsnr": 45.0,
    "dvars": 1.4,
    "dvars_share": 0.2,
    "displaced_share": 0.5,
    "volume": 700.0,
    "overlap": 0.85,
    "tr": 2.0,
    "num_frames": 150,
    "grid": "two",
}


@pytest.mark.parametrize("column", PLANTED)
def test_what_is_planted_is_flagged_and_nothing_else(column: str) -> None:
    table = _table()
    table.loc[17, column] = PLANTED[column]
    flags = flags_of(table)
    assert [row for row, reasons in enumerate(flags) if reasons] == [17]
    words = {rule.column: rule.words for rule in RULES} | {"tr": "TR", "num_frames": "frames", "grid": "grid"}
    assert [reason.split(": ")[0] for reason in flags[17]] == [words[column]]


@pytest.mark.parametrize(("column", "value"), [("tsnr", 200.0), ("dvars", 0.5), ("overlap", 1.0)])
def test_the_good_side_is_not_flagged(column: str, value: float) -> None:
    table = _table()
    table.loc[3, column] = value
    assert not any(flags_of(table))


def test_words_say_the_number_and_the_others() -> None:
    table = _table()
    table["tsnr"] = [80.0] * 39 + [40.0]
    # all alike: 5 % of the median is the spread
    assert flags_of(table)[-1] == ("median temporal signal-to-noise ratio: 40, below the 40 runs (median 80, z -10.0)",)


def test_runs_are_compared_with_those_of_their_task_and_site() -> None:
    table = _table()
    table.loc[:19, ["site", "tsnr", "tr", "num_frames", "grid"]] = ["Leipzig", 30.0, 3.0, 100, "two"]
    assert not any(flags_of(table))
    table.loc[5, "tsnr"] = 15.0
    flags = flags_of(table)
    assert [row for row, reasons in enumerate(flags) if reasons] == [5]
    assert "20 runs of site Leipzig (median 30" in flags[5][0]


def test_few_of_a_task_are_compared_with_all() -> None:
    table = _table()
    table.loc[:1, ["task", "tr", "num_frames"]] = ["motor", 2.0, 100]
    assert not any(flags_of(table))
    table.loc[0, "tsnr"] = 40.0
    assert [bool(reasons) for reasons in flags_of(table)] == [True] + [False] * 39


def test_of_few_runs_only_limits_and_majorities_count() -> None:
    table = _table(4)
    table.loc[0, "tsnr"] = 1.0
    assert not any(flags_of(table))
    table.loc[1, ["displaced_share", "tr"]] = [0.3, 2.0]
    assert flags_of(table)[1] == (
        "share of frames displaced by more than 0.5 mm: 30 %, above 20 %",
        "TR: 2 s, but 3 of 4 runs have 0.8 s",
    )


def test_unknown_numbers_are_not_flagged() -> None:
    table = _table()
    table.loc[:, ["displaced_share", "overlap"]] = np.nan
    table.loc[3, "tsnr"] = np.nan
    assert not any(flags_of(table))
