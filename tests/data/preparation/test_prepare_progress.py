import pytest

from nstorm.data.preparation import progress as module
from nstorm.data.preparation.progress import Progress, seldom

RUNS = {"sub-01": 100, "sub-02": 100, "sub-03": 50}


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_runs_in_work_count_by_their_share(clock):
    progress = Progress(RUNS, there=7, show=False)
    progress.moved("sub-01", "reading", 0.0)
    clock.now += 10
    progress.ended("sub-01", good=True)
    progress.moved("sub-02", "reading", 0.5)
    progress.moved("sub-03", "writing", 0.5)
    assert progress.done == 9.0
    assert str(progress) == "8 of 10 runs, 18 volumes/s, 00:10<00:05: sub-02 reading and 1 more"
    progress.put_back("sub-02")
    progress.ended("sub-03", good=False)
    assert progress.done == 9.0
    assert str(progress) == "9 of 10 runs, 10 volumes/s, 00:10<00:05"


def test_the_time_before_the_first_run_begins_is_not_counted(clock):
    progress = Progress(RUNS, there=0, show=False)
    assert str(progress) == "0 of 3 runs, 0 volumes/s, 00:00<?"
    clock.now += 100
    progress.moved("sub-01", "reading", 0.0)
    clock.now += 10
    progress.moved("sub-01", "reading", 0.5)
    assert str(progress) == "0 of 3 runs, 5 volumes/s, 00:10<00:50: sub-01 reading"


def test_a_log_gets_a_line_a_minute(clock, capsys):
    progress = Progress(RUNS, there=0, show=True)
    for _ in range(30):
        clock.now += 5
        progress.moved("sub-01", "reading", 0.5)
    progress.note("FAILED sub-01: why")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    begins = [line.partition(":")[0] for line in lines]
    assert begins == ["prepare   0%", "prepare  17%", "prepare  17%", "FAILED sub-01", "prepare   0%"]


def test_a_terminal_gets_one_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(RUNS, there=1, show=True)
    for share in (0.1, 0.2, 0.5):
        clock.now += 1
        progress.moved("sub-01", "reading", share)
    progress.note("FAILED sub-01: why")
    progress.close()
    written = capsys.readouterr().err
    assert "prepare  38%|██████          | 1 of 4 runs, 25 volumes/s, 00:02<00:10: sub-01 reading" in written
    assert "FAILED sub-01: why\n" in written


def test_nothing_is_shown_where_nothing_is_wanted(clock, capsys):
    progress = Progress(RUNS, there=0, show=False)
    clock.now += 100
    progress.moved("sub-01", "reading", 0.5)
    progress.note("FAILED")
    progress.close()
    assert capsys.readouterr().err == ""


def test_stages_are_told_at_once_and_shares_seldom(clock):
    told = []
    tell = seldom(lambda stage, share: told.append((stage, share)), seconds=1.0)
    for stage, share in (("a", 0.1), ("a", 0.2), ("b", 0.3), ("b", 0.4)):
        clock.now += 0.4
        tell(stage, share)
    clock.now += 1
    tell("b", 0.5)
    assert told == [("a", 0.1), ("b", 0.3), ("b", 0.5)]
