import numpy as np
import pytest
import torch
from nilearn.interfaces.fmriprep import load_confounds_strategy

from nstorm.data import load_bold
from nstorm.data.time.clean import clean
from nstorm.data.time.confounds import load_confounds
from tests.data.fmriprep import BAD_FRAMES, NUM_FRAMES, write_derivatives


@pytest.mark.parametrize("strategy", ["simple", "scrubbing", "compcor", "ica_aroma"])
def test_agrees_with_nilearn(tmp_path, strategy):
    path = write_derivatives(tmp_path, desc="smoothAROMAnonaggr" if strategy == "ica_aroma" else "preproc")
    confounds = load_confounds(path, strategy)
    table, kept = load_confounds_strategy(str(path), denoise_strategy=strategy)
    assert confounds.names == tuple(table.columns)
    assert confounds.values.shape == (NUM_FRAMES, len(confounds.names))
    np.testing.assert_array_equal(confounds.values, table.to_numpy())
    assert confounds.keep.nonzero()[:, 0].tolist() == kept.tolist()


def test_frames_before_the_steady_state_and_of_much_motion_are_not_kept(tmp_path):
    path = write_derivatives(tmp_path)
    assert (~load_confounds(path).keep).nonzero()[:, 0].tolist() == [0, 1]
    keep = load_confounds(path, "scrubbing", scrub=0).keep
    assert (~keep).nonzero()[:, 0].tolist() == [0, 1, *BAD_FRAMES]


def test_all_frames_are_kept_where_none_is_bad(tmp_path):
    path = write_derivatives(tmp_path)
    table = path.with_name("sub-001_task-objectviewing_run-01_desc-confounds_timeseries.tsv")
    table.write_text(table.read_text().replace("non_steady_state", "other"))
    assert load_confounds(path).keep.all()


def test_options_of_nilearn(tmp_path):
    path = write_derivatives(tmp_path)
    names = load_confounds(path, motion="basic", global_signal="basic").names
    assert set(names) >= {"trans_x", "rot_z", "global_signal"}
    assert "trans_x_derivative1" not in names


def test_cleaning_with_them(tmp_path):
    path = write_derivatives(tmp_path)
    confounds = load_confounds(path, "scrubbing", scrub=0)
    bold = load_bold(path)
    cleaned = clean(bold, confounds=confounds.values, keep=confounds.keep, keep_mean=False)
    series = cleaned.as_tensor().flatten(1).double()
    regressors = confounds.values[confounds.keep]
    times = torch.stack([torch.ones(NUM_FRAMES), torch.arange(NUM_FRAMES)], 1).double()[confounds.keep]
    regressors = regressors - times @ torch.linalg.lstsq(times, regressors).solution
    regressors /= regressors.norm(dim=0)
    assert len(cleaned) == NUM_FRAMES - 6
    assert (regressors.T @ series).abs().max() < 1e-3 * bold.std()


def test_no_table(tmp_path):
    path = write_derivatives(tmp_path)
    for table in tmp_path.glob("*confounds*"):
        table.unlink()
    with pytest.raises(
        ValueError, match=r"no confounds for .*desc-preproc_bold.*keep fMRIPrep's names, and its \*_desc"
    ):
        load_confounds(path)


def test_table_of_another_run(tmp_path):
    path = write_derivatives(tmp_path, num_rows=100)
    with pytest.raises(ValueError, match=r"have 100 rows, but the image has 121 frames"):
        load_confounds(path)


def test_missing_columns(tmp_path):
    path = write_derivatives(tmp_path)
    table = path.with_name("sub-001_task-objectviewing_run-01_desc-confounds_timeseries.tsv")
    table.write_text(table.read_text().replace("white_matter", "something_else"))
    with pytest.raises(ValueError, match=r"no confounds for .* by the strategy 'simple' .*white_matter"):
        load_confounds(path)


def test_every_frame_is_bad(tmp_path):
    path = write_derivatives(tmp_path)
    confounds = load_confounds(path, "scrubbing", fd_threshold=0.01)
    assert not confounds.keep.any()
    with pytest.raises(ValueError, match="keep leaves none of the 121 frames"):
        clean(load_bold(path), confounds=confounds.values, keep=confounds.keep)


def test_unknown_option(tmp_path):
    with pytest.raises(ValueError, match=r"'motion' must be one of .* give a strategy and options that nilearn knows"):
        load_confounds(write_derivatives(tmp_path), motion="all")


def test_no_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_confounds(tmp_path / "sub-01_task-rest_desc-preproc_bold.nii.gz")
