import pytest
import torch
from monai.data import DataLoader
from monai.data.meta_tensor import MetaTensor

from nstorm.data import HAXBY_DELAY, Event, event_clips, haxby_runs, load_bold, read_events, temporal_clips

NUM_FRAMES, TR = 10, 2.0


def make_run(num_frames=NUM_FRAMES, tr=TR):
    affine = torch.diag(torch.tensor([-3.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    time = torch.arange(num_frames, dtype=torch.float32)[:, None, None, None]
    return MetaTensor(time + torch.zeros(2, 3, 4), affine=affine, meta={"tr": tr})


def frames(item):
    return item["image"][0, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("onset", "duration", "delay", "expected"),
    [
        pytest.param(4.0, 6.0, 0.0, [2, 3, 4], id="on frame borders"),
        pytest.param(3.0, 6.0, 0.0, [2, 3], id="frames cut at both ends are left out"),
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
    assert item["image"].meta["start_frame"] == expected[0]


@pytest.mark.parametrize("tr", [0.72, 0.8, 1.49, 2.2])
def test_events_written_to_the_millisecond_keep_their_frames_in_a_long_run(tr):
    run = make_run(1200, tr)
    starts = range(0, 1190, 7)
    events = [Event(round(start * tr, 3), round(10 * tr, 3), "a") for start in starts]
    items = event_clips(run, events, delay=0.0)
    assert [frames(item) for item in items] == [list(range(start, start + 10)) for start in starts]


def test_every_haxby_block_has_nine_frames():
    blocks = 0
    for run in haxby_runs():
        bold = load_bold(run.bold)
        events = read_events(run.events)
        for event, item in zip(events, event_clips(bold, events, delay=HAXBY_DELAY), strict=True):
            (alone,) = event_clips(bold, [event], delay=HAXBY_DELAY)
            assert alone["image"].shape == item["image"].shape == (1, 40, 20, 1, 9)
            start = item["image"].meta["start_frame"]
            assert start * 2.5 == event.onset
            torch.testing.assert_close(
                item["image"].as_tensor()[0],
                bold.as_tensor()[start : start + 9].movedim(0, 3),
                rtol=0,
                atol=0,
            )
            blocks += 1
    assert blocks == 96


def test_item_of_an_event():
    run = make_run()
    events = [Event(0.0, 4.0, "house"), Event(6.0, 4.0, "face")]
    first, second = event_clips(run, events, delay=0.0)
    assert (first["label"], first["trial_type"], first["onset"]) == (1, "house", 0.0)
    assert (second["label"], second["trial_type"], second["onset"]) == (0, "face", 6.0)
    image = second["image"]
    assert image.shape == (1, 2, 3, 4, 2)
    assert image.meta["tr"] == TR
    assert image.affine.dtype == torch.float64
    assert torch.equal(image.affine, run.affine)


def test_labels_give_the_classes_in_their_order():
    events = [Event(0.0, 4.0, "house"), Event(6.0, 4.0, "face")]
    items = event_clips(make_run(), events, delay=0.0, labels=["scissors", "house", "face"])
    assert [item["label"] for item in items] == [1, 2]


def test_clips_have_the_length_of_the_shortest_event_or_the_one_asked_for():
    events = [Event(0.0, 8.0, "a"), Event(8.0, 6.0, "b")]
    assert [frames(item) for item in event_clips(make_run(), events, delay=0.0)] == [[0, 1, 2], [4, 5, 6]]
    shorter = event_clips(make_run(), events, delay=0.0, num_frames=2)
    assert [frames(item) for item in shorter] == [[0, 1], [4, 5]]
    message = r"'b' at 8 s holds 3 frames, fewer than num_frames=4: give a smaller num_frames"
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), events, delay=0.0, num_frames=4)


def test_clips_share_memory_but_not_meta_with_the_run():
    run = make_run()
    before = run.clone()
    for item, *_ in (event_clips(run, [Event(4.0, 6.0, "a")], delay=0.0), temporal_clips(run, 3)):
        assert item["image"].untyped_storage().data_ptr() == run.untyped_storage().data_ptr()
        item["image"].meta["tr"] = 99.0
        item["image"].affine[0, 0] = 99.0
    assert torch.equal(run.as_tensor(), before.as_tensor())
    assert torch.equal(run.affine, before.affine)
    assert run.meta["tr"] == TR
    assert "start_frame" not in run.meta


def test_clips_are_batched_by_monai():
    events = [Event(0.0, 4.0, "house"), Event(6.0, 6.0, "face")]
    (batch,) = DataLoader(event_clips(make_run(), events, delay=0.0), batch_size=2)
    assert batch["image"].shape == (2, 1, 2, 3, 4, 2)
    assert batch["image"].meta["tr"].tolist() == [TR, TR]
    assert batch["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("event", "delay", "message"),
    [
        pytest.param(Event(14.0, 4.0, "a"), 5.0, r"'a' at 14 s.*delay of 5 s.* 19 to 23 s, .* 0 to 20 s", id="end"),
        pytest.param(Event(-1.0, 4.0, "a"), 0.0, r"'a' at -1 s.* -1 to 3 s, but the run from 0 to 20 s", id="start"),
        pytest.param(Event(4.0, 1.0, "a"), 0.0, r"'a' at 4 s lasts 1 s and holds no whole frame of 2 s", id="short"),
        pytest.param(Event(5.0, 3.0, "a"), 0.0, None, id="one frame"),
        pytest.param(Event(5.0, 2.5, "a"), 0.0, r"lasts 2.5 s and holds no whole frame of 2 s", id="across"),
        pytest.param(Event(4.0, 0.0, "a"), 0.0, r"lasts 0 s and holds no whole frame of 2 s", id="impulse"),
        pytest.param(Event(0.0, 4.0, "a"), -1.0, r"delay is -1\.0 s, but it has to be", id="negative delay"),
        pytest.param(Event(0.0, 4.0, "a"), float("nan"), r"delay is nan s, but it has to be", id="NaN delay"),
    ],
)
def test_events_that_do_not_fit(event, delay, message):
    if message is None:
        assert frames(event_clips(make_run(), [event], delay=delay)[0]) == [3]
        return
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), [event], delay=delay)


def test_unknown_label():
    message = r"'cat' at 0 s has a trial type that is not among labels \['face', 'house'\]"
    with pytest.raises(ValueError, match=message):
        event_clips(make_run(), [Event(0.0, 4.0, "cat")], delay=0.0, labels=["face", "house"])


def test_no_events():
    with pytest.raises(ValueError, match="events is empty: give at least one event"):
        event_clips(make_run(), [], delay=0.0)


def test_no_frames_asked_for():
    with pytest.raises(ValueError, match="num_frames is 0, but a clip has at least 1 frame"):
        event_clips(make_run(), [Event(0.0, 4.0, "a")], delay=0.0, num_frames=0)


@pytest.mark.parametrize(
    "cut",
    [lambda bold: event_clips(bold, [Event(0.0, 4.0, "a")], delay=0.0), lambda bold: temporal_clips(bold, 2)],
    ids=["event_clips", "temporal_clips"],
)
def test_what_is_no_run(cut):
    with pytest.raises(ValueError, match=r"bold has shape \(1, 10, 2, 3, 4\), but a run has four axes"):
        cut(make_run()[None])
    with pytest.raises(ValueError, match=r"bold has no repetition time: read it with nstorm\.data\.load_bold"):
        cut(make_run().as_tensor())
    with pytest.raises(ValueError, match="bold has no repetition time"):
        cut(MetaTensor(make_run().as_tensor()))


@pytest.mark.parametrize(
    ("num_frames", "stride", "starts"),
    [
        (5, None, [0, 5]),
        (4, None, [0, 4]),
        (10, None, [0]),
        (4, 3, [0, 3, 6]),
        (4, 2, [0, 2, 4, 6]),
        (2, 5, [0, 5]),
    ],
)
def test_temporal_clips(num_frames, stride, starts):
    run = make_run()
    items = temporal_clips(run, num_frames, stride=stride)
    assert [frames(item) for item in items] == [list(range(start, start + num_frames)) for start in starts]
    assert [item["image"].meta["start_frame"] for item in items] == starts
    for item in items:
        assert item["image"].shape == (1, 2, 3, 4, num_frames)
        assert item["image"].meta["tr"] == TR
        assert torch.equal(item["image"].affine, run.affine)


@pytest.mark.parametrize(
    ("num_frames", "stride", "message"),
    [
        (11, None, r"num_frames \(11\) has to be at most the number of frames of the run, 10"),
        (0, None, r"num_frames \(0\) and stride \(0\) have to be 1 or more"),
        (2, 0, r"num_frames \(2\) and stride \(0\) have to be 1 or more"),
    ],
)
def test_temporal_clips_that_do_not_fit(num_frames, stride, message):
    with pytest.raises(ValueError, match=message):
        temporal_clips(make_run(), num_frames, stride=stride)
