import numpy as np
import pytest
from matplotlib.figure import Figure

from nstorm.data import load_bold, load_mask, rest_run
from nstorm.data.report.figures import as_webp, carpet_figure, histogram_figure
from nstorm.data.report.quality import quality_of
from nstorm.data.report.slices import slices_figure


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _rest() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    bold = load_bold(rest_run().bold)[::4]
    mask = load_mask(rest_run().mask).numpy()[0]
    mean, std = bold.numpy().mean(0), bold.numpy().std(0)
    return mean, mean / np.where(std > 0, std, 1), mask, bold.affine.numpy()


def test_slices_are_the_same_in_every_storage_order() -> None:
    mean, tsnr, mask, affine = _rest()
    usual = np.roll(mask, 1, 2)
    expected = _pixels(slices_figure(mean, tsnr, mask, affine, usual=usual, most_tsnr=200.0))
    # stored as PIR instead of RAS
    turned = [np.flip(volume.transpose(1, 2, 0), (0, 1)) for volume in (mean, tsnr, mask, usual)]
    _, y, z = mean.shape
    back = np.array([[0, 0, 1, 0], [-1, 0, 0, y - 1], [0, -1, 0, z - 1], [0, 0, 0, 1]])
    found = slices_figure(*turned[:3], affine @ back, usual=turned[3], most_tsnr=200.0)
    assert (_pixels(found) == expected).all()


def test_the_left_of_the_head_is_on_the_left() -> None:
    _, tsnr, mask, affine = _rest()
    mean = np.ones_like(tsnr)
    # in RAS the first voxels are on the left
    mean[: mean.shape[0] // 2] = 5
    figure = slices_figure(mean, tsnr, mask, affine, most_tsnr=200.0)
    coronal = np.asarray(figure.axes[1].images[0].get_array())
    half = coronal.shape[1] // 2
    assert coronal[:, : half - 2].max() == 5
    assert coronal[:, half + 2 :].max() == 1
    assert [text.get_text() for text in figure.axes[1].texts] == ["L", "R"]
    assert not figure.axes[0].texts


@pytest.mark.parametrize(
    ("shape", "num_planes"),
    [((40, 20, 1), 1), ((9, 1, 7), 1), ((7, 9, 3), 1), ((5, 6, 7), 3), ((2, 2, 2), 1), ((1, 1, 1), 1)],
)
def test_planes_without_extent_are_left_out(shape: tuple[int, int, int], num_planes: int) -> None:
    random = np.random.default_rng(0)
    mean = random.random(shape).astype(np.float32)
    figure = slices_figure(mean, mean, np.ones(shape, bool), np.diag([3.1, 3.75, 3.75, 1]), most_tsnr=1.0)
    # and the colour bar
    assert len(figure.axes) == 2 * num_planes + 1
    assert as_webp(figure)[8:12] == b"WEBP"


@pytest.mark.parametrize("num_frames", [1, 2, 50])
@pytest.mark.parametrize("moved", [True, False])
def test_carpet_has_a_line_for_each_series_that_is_known(num_frames: int, moved: bool) -> None:
    values = np.random.default_rng(0).normal(100, 1, (num_frames, 60)).astype(np.float32)
    displacement = np.full(num_frames, 0.1) if moved else None
    quality = quality_of(values, np.ones((3, 4, 5), bool), framewise_displacement=displacement)
    figure = carpet_figure(quality["series"], quality["carpet"], 2.0, 6.0)
    *lines, carpet, _ = figure.axes
    assert [axes.get_ylabel() for axes in lines] == ["FD, mm"] * moved + ["DVARS", "global\nsignal"]
    assert carpet.images[0].get_extent()[:2] == [5.0, 5.0 + 2 * num_frames]
    np.testing.assert_array_equal(lines[-1].lines[0].get_xdata(), 6 + 2 * np.arange(num_frames))
    assert as_webp(figure)[8:12] == b"WEBP"


@pytest.mark.parametrize("flagged", [True, False])
def test_a_histogram_counts_every_known_run(flagged: bool) -> None:
    values = np.array([1.0, 2.0, np.nan, 2.5, 9.0])
    figure = histogram_figure("tSNR", values, np.array([False, False, flagged, False, flagged]))
    (axes,) = figure.axes
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert [list(line.get_xdata()) for line in axes.lines] == ([[9.0]] if flagged else [])
    assert as_webp(figure)[8:12] == b"WEBP"
