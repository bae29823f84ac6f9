from nstorm.data import haxby_runs, strided_clips
from nstorm.data.transforms.rand_load_clip import RandLoadClipd


def test_item_says_what_was_read():
    (clip, *_) = strided_clips(haxby_runs()[0].bold, 50, stride=40)[1:]
    load = RandLoadClipd("image", num_frames=5).set_random_state(0)
    starts = set()
    for _ in range(20):
        item = load(clip)
        start = item["start_frame"]
        starts.add(start)
        assert item["frames"] == (start, start + 5)
        assert (item["start_time"], item["tr"]) == (start * 2.5, 2.5)
        assert item["image"].meta["start_frame"] == start
    assert clip["start_time"] == 100.0
    assert min(starts) >= 40
    assert max(starts) <= 85
    assert len(starts) > 5
    assert load({"image": clip["image"]}).keys() == {"image", "frames", "start_frame", "start_time", "tr"}
