import gzip
import math

import pytest

from nstorm.data import Event, merge_events, read_events


@pytest.fixture
def table(tmp_path):
    def write(*lines, encoding="utf-8"):
        path = tmp_path / "events.tsv"
        path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
        return path

    return write


HEADER = "onset\tduration\ttrial_type"


def test_columns_are_found_by_name_and_rows_keep_their_order(table):
    path = table("trial_type\tresponse_time\tonset\tduration", "house\tn/a\t12.5\t2", "face\t0.4\t-1\t0")
    assert read_events(path) == [Event(12.5, 2.0, "house"), Event(-1.0, 0.0, "face")]


def test_byte_order_mark(table):
    assert read_events(table(HEADER, "0\t1\tface", encoding="utf-8-sig")) == [Event(0.0, 1.0, "face")]


def test_durations_that_are_not_known(table):
    (event,) = read_events(table(HEADER, "3\tn/a\tface"))
    assert (event.onset, event.trial_type) == (3.0, "face")
    assert math.isnan(event.duration)


def test_blocks_of_single_events():
    pictures = [
        Event(9.0, 1.0, "face"),  # out of order, and 6 s after the others
        Event(0.0, 1.0, "face"),
        Event(1.5, 1.5, "face"),
        Event(1.75, 0.25, "face"),  # inside the one before
        Event(3.0, 1.0, "house"),
        Event(4.0, 1.0, "face"),
    ]
    assert merge_events(pictures, max_gap=0.5) == [
        Event(0.0, 3.0, "face"),
        Event(3.0, 1.0, "house"),
        Event(4.0, 1.0, "face"),
        Event(9.0, 1.0, "face"),
    ]


@pytest.mark.parametrize("event", [Event(0.0, math.nan, "a"), Event(math.nan, 1.0, "a")])
def test_events_without_an_end_are_not_merged(event):
    with pytest.raises(ValueError, match=r"Event\(.*trial_type='a'\) has no finite onset or duration, .* leave"):
        merge_events([Event(0.0, 1.0, "a"), event], max_gap=1.0)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent_events\.tsv"):
        read_events(tmp_path / "absent_events.tsv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([], r"has the columns \[\] and lacks onset and duration and trial_type", id="empty"),
        pytest.param(["onset\tduration", "0\t1"], r"has the columns .* and lacks trial_type: give a tab", id="column"),
        pytest.param(["onset,duration,trial_type", "0,1,a"], r"\['onset,duration,trial_type'\] and lacks", id="commas"),
        pytest.param([HEADER], r"has no events below its header", id="header alone"),
        pytest.param([HEADER, "0\t1\ta", "n/a\t1\tb"], r", line 3: onset is 'n/a', but it has to be", id="no onset"),
        pytest.param([HEADER, "nan\t1\ta"], r", line 2: onset is 'nan', but it has to be a finite", id="NaN onset"),
        pytest.param([HEADER, "0\tinf\ta"], r", line 2: duration is 'inf', but it has to be a finite", id="infinite"),
        pytest.param([HEADER, "0\t-2\ta"], r", line 2: duration is -2 s, but it has to be 0 or more", id="negative"),
        pytest.param([HEADER, "0"], r", line 2: duration is '', but", id="short row"),
        pytest.param([HEADER, "0\t1\tn/a"], r", line 2: trial_type is 'n/a': name the trial type", id="no type"),
        pytest.param([HEADER, "0\t1\t "], r", line 2: trial_type is '': name the trial type", id="blank type"),
    ],
)
def test_bad_table(table, lines, message):
    with pytest.raises(ValueError, match=rf"events\.tsv.*{message}"):
        read_events(table(*lines))


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_bytes(gzip.compress(b"onset\tduration\ttrial_type\n", mtime=0))
    with pytest.raises(ValueError, match=r"events\.tsv is not a text table"):
        read_events(path)
