"""The same clips whatever processes read them; on real loaders."""

import os

import monai.data
import pytest
import torch
from ignite.engine import Events
from monai.data import list_data_collate
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandFlipd
from torch.utils.data import DataLoader, get_worker_info

from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.group_batches import GroupBatchSampler
from nstorm.data.clips.samplers import BalancedSampler, ClipSampler
from nstorm.data.transforms.rand_intensity import RandBOLDNoised
from nstorm.data.transforms.time_as_channel import TimeAsChanneld
from tests.data.clips.stores import SHAPE, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "store", {"01": 2, "02": 1, "03": 1})


class Noisy:
    """Draws from torch's own generator, and says which worker it is in."""

    def __call__(self, item):
        worker = get_worker_info()
        return {**item, "drawn": torch.rand(()), "worker": -1 if worker is None else worker.id}


def random_transform():
    flip = TimeAsChanneld("image", RandFlipd("image", prob=0.5, spatial_axis=0))
    return Compose([RandBOLDNoised("image", std_range=(0.5, 1.0)), Compose([flip])])


def epochs(loader, number=3):
    """What a loader gives in some epochs: by epoch a list of what tells items and their draws apart."""
    return [
        [(key, start, values.sum().item()) for batch in loader for key, start, values in _items(batch)]
        for _ in range(number)
    ]


def _items(batch):
    return zip(batch["key"], batch["start_frame"].tolist(), batch["image"], strict=True)


def loader_of(store, workers=0, persistent=False, context=None, kind=DataLoader, **about):
    clips = ClipDataset(store, 5, clips_per_run=2, transform=random_transform(), seed=3)
    options = {"persistent_workers": True} if persistent else {}
    return kind(
        clips,
        batch_size=3,
        sampler=ClipSampler(clips, seed=1),
        num_workers=workers,
        multiprocessing_context=context,
        collate_fn=list_data_collate,
        **options,
        **about,
    )


@pytest.fixture(scope="module")
def expected(store):
    found = epochs(loader_of(store))
    # every clip once an epoch, and no two epochs alike
    assert [len(epoch) for epoch in found] == [8, 8, 8]
    assert len({tuple(sorted(epoch)) for epoch in found}) == 3
    return found


@pytest.mark.parametrize("kind", [DataLoader, monai.data.DataLoader])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (2, False), (2, True)])
def test_any_number_of_workers_reads_the_same(store, expected, workers, persistent, kind):
    assert epochs(loader_of(store, workers, persistent, kind=kind)) == expected


def test_workers_that_are_spawned_read_the_same(store, expected):
    assert epochs(loader_of(store, 1, persistent=True, context="spawn")) == expected


def test_an_epoch_that_is_broken_off_does_not_shift_the_next(store, expected):
    loader = loader_of(store, 2, persistent=True)
    next(iter(loader))
    assert epochs(loader, 2) == expected[1:]


def test_a_training_is_taken_up_again_where_it_was(store, expected):
    loader = loader_of(store, 1)
    loader.sampler.set_epoch(2)
    assert epochs(loader, 1) == expected[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_ones_own_needs_set_epoch_and_no_more(store, workers):
    clips = ClipDataset(store, 5, clips_per_run=4)
    loader = DataLoader(clips, batch_size=4, num_workers=workers, persistent_workers=workers > 0)
    found = []
    for epoch in (0, 1, 0):
        clips.set_epoch(epoch)
        found += epochs(loader, 1)
    assert found[0] == found[2] != found[1]


def test_torchs_own_draws_do_not_hang_on_the_worker(store):
    def drawn(workers):
        clips = ClipDataset(store, 5, clips_per_run=4, transform=Noisy())
        batches = list(DataLoader(clips, batch_size=2, num_workers=workers))
        assert {worker for batch in batches for worker in batch["worker"].tolist()} == set(range(workers) or [-1])
        return torch.cat([batch["drawn"] for batch in batches]).tolist()

    assert drawn(0) == drawn(1) == drawn(2)


@pytest.mark.parametrize("sampler", [BalancedSampler, GroupBatchSampler])
def test_several_draws_of_one_run_are_the_same_for_all_workers(store, sampler):
    def read(workers):
        clips = ClipDataset(store, 5, seed=3)
        if sampler is BalancedSampler:
            loader = DataLoader(clips, batch_size=2, sampler=BalancedSampler(clips), num_workers=workers)
        else:
            loader = DataLoader(clips, batch_sampler=GroupBatchSampler(clips, groups=2), num_workers=workers)
        return epochs(loader, 2)

    found = read(0)
    assert found == read(2)
    assert found[0] != found[1]


@pytest.mark.parametrize("balanced", [True, False])
def test_monais_engine_gets_other_clips_in_each_epoch(store, balanced):
    clips = ClipDataset(store, 5, clips_per_run=2)
    if balanced:
        loader = DataLoader(clips, batch_size=2, sampler=ClipSampler(clips), num_workers=1, persistent_workers=True)
    else:
        loader = DataLoader(clips, batch_sampler=GroupBatchSampler(clips, groups=2), num_workers=1)
    seen = {}
    net = torch.nn.Linear(5, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=loader,
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.0),
        loss_function=lambda prediction, label: prediction.mean(),
        prepare_batch=lambda batch, *args, **kwargs: (batch["image"].as_tensor(), torch.zeros(1)),
        decollate=False,
    )

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine):
        batch = engine.state.batch
        seen.setdefault(engine.state.epoch, []).extend(zip(batch["key"], batch["start_frame"].tolist(), strict=True))

    trainer.run()
    assert sorted(seen) == [1, 2, 3]
    assert len({tuple(sorted(clips)) for clips in seen.values()}) == 3
    if balanced:
        # the engine counts epochs from 1, and says so to the sampler
        own = ClipDataset(store, 5, clips_per_run=2, output="brain")
        for epoch, read in seen.items():
            own.set_epoch(epoch)
            assert sorted(read) == sorted((item["key"], item["start_frame"]) for item in own)


def _part_of(rank, folder, meeting, results):
    clips = ClipDataset(folder, 5, clips_per_run=2)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    before = ClipSampler(clips)
    del os.environ["RANK"], os.environ["WORLD_SIZE"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    loader = DataLoader(clips, batch_size=2, sampler=ClipSampler(clips))
    assert list(before) == list(ClipSampler(clips))
    own = [[(key, start) for key, start, _ in epoch] for epoch in epochs(loader, 2)]
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, own)
    torch.distributed.destroy_process_group()
    results.put((rank, gathered))


def test_two_processes_share_an_epoch(store, tmp_path):
    results = torch.multiprocessing.get_context("fork").SimpleQueue()
    torch.multiprocessing.start_processes(
        _part_of, (str(store.place), tmp_path / "meeting", results), nprocs=2, start_method="fork"
    )
    seen = dict(results.get() for _ in range(2))
    assert seen[0] == seen[1]
    first, second = seen[0]
    alone = ClipDataset(store, 5, clips_per_run=2)
    for epoch, (one, other) in enumerate(zip(first, second, strict=True)):
        alone.set_epoch(epoch)
        assert len(one) == len(other) == 4
        assert sorted(one + other) == sorted((item["key"], item["start_frame"]) for item in alone)


def test_images_of_workers_are_whole(store):
    clips = ClipDataset(store, 5, stride=5)
    [batch] = DataLoader(clips, batch_size=len(clips), num_workers=1)
    assert batch["image"].shape == (24, 1, *SHAPE, 5)
    assert all(torch.equal(image, clips[number]["image"]) for number, image in enumerate(batch["image"]))
