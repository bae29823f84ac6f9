import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import DataLoader, Dataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from nstorm.data import HAXBY_DELAY, Event, haxby_runs, load_bold, read_events
from nstorm.data.clips.event_locked import event_clips
from nstorm.data.clips.items import run_item
from nstorm.data.transforms import TimeToLastd
from nstorm.data.transforms.io import LoadBOLDd

NUM_FRAMES, TR = 10, 2.0


def make_run(num_frames=NUM_FRAMES, tr=TR, **meta):
    affine = torch.diag(torch.tensor([-3.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    time = torch.arange(num_frames, dtype=torch.float32)[:, None, None, None]
    return MetaTensor(time + torch.zeros(2, 3, 4), affine=affine, meta={"tr": tr, **meta})


def frames(item):
    return item["image"][0, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("onset", "duration", "delay", "expected"),
    [
        pytest.param(4.0, 6.0, 0.0, [2, 3, 4], id="on frame borders"),
        pytest.param(3.0, 6.0, 0.0, [2, 3], id="frames cut at both ends are left out"),
        pytest.param(5.0, 3.0, 0.0, [3], id="one frame"),
        pytest.param(1.0, 4.0, 5.0, [3, 4], id="delay"),
        pytest.param(4.0009, 6.0, 0.0, [2, 3, 4], id="late by less than 1 ms"),
        pytest.param(4.0011, 6.0, 0.0, [3, 4], id="late by more than 1 ms"),
        pytest.param(4.0, 5.9991, 0.0, [2, 3, 4], id="short by less than 1 ms"),
        pytest.param(4.0, 5.9989, 0.0, [2, 3], id="short by more than 1 ms"),
        pytest.param(0.0, 20.0, 0.0, list(range(10)), id="whole run"),
        pytest.param(-4.0, 4.0, 4.0, [0, 1], id="onset before the run, response inside"),
        pytest.param(14.0009, 6.0, 0.0, [7, 8, 9], id="ends less than 1 ms after the run"),
    ],
)
def test_frames_lie_entirely_inside_the_event(onset, duration, delay, expected):
    (item,) = event_clips(make_run(), [Event(onset, duration, "a")], delay=delay)
    assert frames(item) == expected
    assert item["image"].meta["start_frame"] == item["start_frame"] == expected[0]
    assert item["frames"] == (expected[0], expected[-1] + 1)


def sixteenths(start, stop):
    """Seconds whose sums are exact, so that none is within rounding of the 1 ms of tolerance."""
    return st.integers(16 * start, 16 * stop).map(lambda n: n / 16)


@given(
    tr=sixteenths(1, 4),
    onset=sixteenths(0, 60),
    delay=sixteenths(0, 8),
    window=st.tuples(sixteenths(-5, 5), sixteenths(6, 20)),
)
@settings(max_examples=25, deadline=None)
def test_frames_of_a_window_against_their_definition(tr, onset, delay, window):
    run = MetaTensor(torch.arange(400.0)[:, None, None, None], meta={"tr": tr, "start_time": -20.0, "start_frame": 0})
    start, stop = onset + delay + window[0], onset + delay + window[1]
    inside = [k for k in range(400) if start - 1e-3 <= -20 + k * tr and -20 + (k + 1) * tr <= stop + 1e-3]
    if stop > 400 * tr - 20 or not inside:
        with pytest.raises(ValueError, match="but the run" if inside else "holds no whole frame"):
            event_clips(run, [Event(onset, math.nan, "a")], delay=delay, window=window)
        return
    (item,) = event_clips(run, [Event(onset, math.nan, "a")], delay=delay, window=window)
    assert frames(item) == inside


@pytest.mark.parametrize("tr", [0.72, 0.8, 1.49, 2.2])
def test_events_written_to_the_millisecond_keep_their_frames_in_a_long_run(tr):
    run = make_run(1200, tr)
    starts = range(0, 1190, 7)
    events = [Event(round(start * tr, 3), round(10 * tr, 3), "a") for start in starts]
    items = event_clips(run, events, delay=0.0)
    assert [frames(item) for item in items] == [list(range(start, start + 10)) for start in starts]


def test_every_haxby_block_has_nine_frames():
    runs = [run_item(run.bold, events=run.events) for run in haxby_runs()]
    items = event_clips(runs, delay=HAXBY_DELAY)
    assert len(items) == 96
    assert sorted({item["label"] for item in items}) == list(range(8))
    read = Compose([LoadBOLDd("image"), TimeToLastd("image")])
    for index, run in enumerate(haxby_runs()):
        bold = load_bold(run.bold)
        views = event_clips(bold, read_events(run.events), delay=HAXBY_DELAY)
        for event, view, item in zip(read_events(run.events), views, items[8 * index : 8 * index + 8], strict=True):
            (alone,) = event_clips(bold, [event], delay=HAXBY_DELAY)
            assert alone["image"].shape == view["image"].shape == (1, 40, 20, 1, 9)
            assert {**view, "image": 0} == {**item, "image": 0}
            start = view["start_frame"]
            assert start * 2.5 == event.onset == item["onset"]
            expected = bold.as_tensor()[start : start + 9].movedim(0, 3)[None]
            assert torch.equal(view["image"].as_tensor(), expected)
            assert torch.equal(read(item)["image"].as_tensor(), expected)


def test_item_of_an_event():
    run = make_run()
    events = [Event(0.0, 4.0, "house"), Event(6.0, 4.0, "face")]
    first, second = event_clips({"image": run, "subject": "7", "sex": "F"}, events, delay=0.0)
    assert (first["label"], first["trial_type"], first["onset"], first["duration"]) == (1, "house", 0.0, 4.0)
    assert (second["label"], second["trial_type"], second["onset"], second["duration"]) == (0, "face", 6.0, 4.0)
    assert (second["subject"], second["sex"], second["start_time"], second["tr"]) == ("7", "F", 6.0, TR)
    image = second["image"]
    assert image.shape == (1, 2, 3, 4, 2)
    assert image.meta["tr"] == TR
    assert image.affine.dtype == torch.float64
    assert torch.equal(image.affine, run.affine)


def test_onsets_count_from_the_start_of_the_recording():
    part = make_run(start_time=30.0, start_frame=15)
    (item,) = event_clips(part, [Event(34.0, 4.0, "a")], delay=0.0)
    assert frames(item) == [2, 3]
    assert (item["frames"], item["start_time"]) == ((17, 19), 34.0)
    with pytest.raises(ValueError, match=r"'a' at 4 s.* lasts from 4 to 8 s, but the run from 30 to 50 s"):
        event_clips(part, [Event(4.0, 4.0, "a")], delay=0.0)


def test_labels_give_the_classes_in_their_order():
    events = [Event(0.0, 4.0, "house"), Event(6.0, 4.0, "face")]
    items = event_clips(make_run(), events, delay=0.0, labels=["scissors", "house", "face"])
    assert [item["label"] for item in items] == [1, 2]


def test_classes_are_those_of_all_runs():
    runs = [
        {"image": make_run(), "events": [Event(0.0, 4.0, "b")]},
        {"image": make_run(), "events": [Event(0.0, 4.0, "a"), Event(6.0, 4.0, "rest")]},
    ]
    assert [item["label"] for item in event_clips(runs, delay=0.0, ignore=["rest"])] == [1, 0]
    assert [item["label"] for item in event_clips(runs, delay=0.0)] == [1, 0, 2]


def test_clips_have_the_length_of_the_shortest_event_or_the_one_asked_for():
    events = [Event(0.0, 8.0, "a"), Event(8.0, 6.0, "b")]
    assert [frames(item) for item in event_clips(make_run(), events, delay=0.0)] == [[0, 1, 2], [4, 5, 6]]
    shorter = event_clips(make_run(), events, delay=0.0, num_frames=2)
    assert [frames(item) for item in shorter] == [[0, 1], [4, 5]]
    message = r"'b' at 8 s holds 3 frames, fewer than num_frames=4: give a smaller num_frames"
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), events, delay=0.0, num_frames=4)


def test_length_is_found_for_each_repetition_time():
    events = [Event(0.0, 6.0, "a"), Event(10.5, 6.0, "a")]
    runs = [{"image": make_run(tr=tr, num_frames=40), "events": events} for tr in (2.0, 0.5)]
    assert [len(frames(item)) for item in event_clips(runs, delay=0.0)] == [2, 2, 12, 12]


def test_clips_share_memory_but_not_meta_with_the_run():
    run = make_run()
    (item,) = event_clips(run, [Event(4.0, 6.0, "a")], delay=0.0)
    assert item["image"].untyped_storage().data_ptr() == run.untyped_storage().data_ptr()
    item["image"].meta["tr"] = 99.0
    item["image"].affine[0, 0] = 99.0
    assert run.affine[0, 0] == -3
    assert run.meta["tr"] == TR
    assert "start_frame" not in run.meta


def test_clips_are_batched_by_monai():
    runs = [run_item(run.bold, events=run.events, site="Princeton") for run in haxby_runs()[:2]]
    clips = event_clips(runs, delay=HAXBY_DELAY, window=(0.0, 15.0))
    dataset = Dataset(clips, Compose([LoadBOLDd("image"), TimeToLastd("image")]))
    (batch,) = DataLoader(dataset, batch_size=16, num_workers=2)
    assert batch["image"].shape == (16, 1, 40, 20, 1, 6)
    assert batch["label"].tolist() == [clip["label"] for clip in clips]
    assert batch["trial_type"] == [clip["trial_type"] for clip in clips]
    assert batch["run"] == ["01"] * 8 + ["02"] * 8
    assert batch["onset"].tolist() == batch["start_time"].tolist() == batch["image"].meta["start_time"].tolist()


def test_events_in_any_order_give_their_clips_in_that_order():
    events = [Event(12.0, 4.0, "b"), Event(0.0, 4.0, "a"), Event(6.0, 4.0, "b")]
    assert [frames(item) for item in event_clips(make_run(), events, delay=0.0)] == [[6, 7], [0, 1], [3, 4]]


def test_events_of_a_file(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\ttrial_type\n2\tn/a\ta\n8\tn/a\tb\n")
    run = {"image": make_run(), "events": path}
    assert [frames(item) for item in event_clips(run, delay=1.0, window=(-1.0, 3.0))] == [[1, 2], [4, 5]]
    assert [frames(item) for item in event_clips(make_run(), str(path), delay=2.0, window=(0.0, 4.0))] == [
        [2, 3],
        [5, 6],
    ]
    with pytest.raises(ValueError, match=r"the run: the event 'a' at 2 s has no duration: say with window= which"):
        event_clips(run, delay=1.0)


@pytest.mark.parametrize(
    ("event", "delay", "message"),
    [
        pytest.param(Event(14.0, 4.0, "a"), 5.0, r"'a' at 14 s.*delay of 5 s.* 19 to 23 s, .* 0 to 20 s", id="end"),
        pytest.param(Event(-1.0, 4.0, "a"), 0.0, r"'a' at -1 s.* -1 to 3 s, but the run from 0 to 20 s", id="start"),
        pytest.param(Event(4.0, 1.0, "a"), 0.0, r"'a' at 4 s lasts 1 s and holds no whole frame of 2 s", id="short"),
        pytest.param(Event(5.0, 2.5, "a"), 0.0, r"lasts 2.5 s and holds no whole frame of 2 s", id="across"),
        pytest.param(Event(4.0, 0.0, "a"), 0.0, r"lasts 0 s and holds no whole frame of 2 s", id="impulse"),
        pytest.param(Event(math.nan, 4.0, "a"), 0.0, r"'a' at nan s has no finite onset: correct it", id="NaN onset"),
        pytest.param(Event(0.0, 4.0, "a"), -1.0, r"delay is -1\.0 s, but it has to be", id="negative delay"),
        pytest.param(Event(0.0, 4.0, "a"), float("nan"), r"delay is nan s, but it has to be", id="NaN delay"),
    ],
)
def test_events_that_do_not_fit(event, delay, message):
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), [event], delay=delay)


def test_errors_name_the_run():
    run = {"image": haxby_runs()[1].bold, "events": [Event(0.0, 5.0, "a"), Event(300.0, 5.0, "a")]}
    with pytest.raises(ValueError, match=r"run-02_res-1slice_bold\.nii\.gz: the event 'a' at 300 s, with its delay"):
        event_clips(run, delay=0.0)


def test_unknown_label():
    message = r"'cat' at 0 s has a trial type that is not among labels \['face', 'house'\]: add it, or .* ignore="
    events = [Event(0.0, 4.0, "cat"), Event(6.0, 4.0, "house")]
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), events, delay=0.0, labels=["face", "house"])
    (item,) = event_clips(make_run(), events, delay=0.0, labels=["face", "house"], ignore=["cat"])
    assert item["label"] == 1


def test_clips_of_different_labels_share_no_frames():
    events = [Event(8.0, 6.0, "b"), Event(2.0, 8.0, "a"), Event(0.0, 4.0, "a")]
    message = r"'a' at 2 s and the event 'b' at 8 s share the frames from 8 to 10 s: give a smaller num_frames"
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), events[:2], delay=0.0, window=(0.0, 8.0))
    # the first two events overlap by 2 s, but their clips do not; clips of one label may
    items = event_clips(make_run(), events, delay=0.0)
    assert [frames(item) for item in items] == [[4, 5], [1, 2], [0, 1]]
    allowed = event_clips(make_run(), events[:2], delay=0.0, window=(0.0, 8.0), allow_overlap=True)
    assert [frames(item) for item in allowed] == [[4, 5, 6, 7], [1, 2, 3, 4]]
    # frames of different runs are different frames
    runs = [{"image": make_run(), "events": [event]} for event in events[:2]]
    assert len(event_clips(runs, delay=0.0, window=(0.0, 8.0))) == 2


@pytest.mark.parametrize("duration", [4.0, 2.0])
def test_event_that_occurs_twice(duration):
    events = [Event(0.0, 4.0, "a"), Event(6.0, 4.0, "a"), Event(0.0, duration, "a")]
    with pytest.raises(ValueError, match="the run: the event 'a' at 0 s occurs twice: leave one of them out"):
        event_clips(make_run(), events, delay=0.0, allow_overlap=True)


@pytest.mark.parametrize(
    ("runs", "arguments", "message"),
    [
        (make_run(), {"events": []}, "events of the run is empty: give at least one event"),
        (make_run(), {}, "the run has no events: give its item the key 'events'"),
        ([make_run(), make_run()], {"events": [Event(0.0, 4.0, "a")]}, "events are given for 2 runs at once: put them"),
        (make_run(), {"events": [Event(0.0, 4.0, "a")], "ignore": ["a"]}, r"ignore=\['a'\] leaves no event"),
        (make_run(), {"events": [Event(0.0, 4.0, "a")], "num_frames": 0}, "num_frames is 0, but a clip has at least 1"),
        (
            make_run(),
            {"events": [Event(0.0, 4.0, "a")], "window": (2.0, 2.0)},
            r"window is \(2\.0, 2\.0\) s, but",
        ),
        (
            make_run(),
            {"events": [Event(0.0, 4.0, "a")], "window": (0.0, math.inf)},
            r"window is \(0\.0, inf\) s, but",
        ),
        ({"image": make_run(), "label": 3}, {"events": [Event(0.0, 4.0, "a")]}, "has the key 'label', which clips set"),
    ],
)
def test_arguments_that_make_no_sense(runs, arguments, message):
    with pytest.raises(ValueError, match=message):
        event_clips(runs, delay=0.0, **arguments)
