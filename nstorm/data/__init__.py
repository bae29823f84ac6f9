"""Runs of BOLD as tensors that lose nothing: reading, space, time, intensity, clips, splits, parcels.

Functions take and give ``(T, H, W, D)`` or ``(1, H, W, D, T)``; :mod:`nstorm.data.transforms` has them for MONAI.
"""

from nstorm.data.clips.cut import random_clips, strided_clips
from nstorm.data.clips.dataset import ClipDataset
from nstorm.data.clips.event_locked import event_clips
from nstorm.data.clips.events import Event, merge_events, read_events
from nstorm.data.clips.group_batches import GroupBatchSampler
from nstorm.data.clips.in_brain import collate_brain, to_dense
from nstorm.data.clips.items import run_item
from nstorm.data.clips.samplers import BalancedSampler, ClipSampler
from nstorm.data.clips.shared_batch import collate_clips
from nstorm.data.clips.stored_runs import stored_runs
from nstorm.data.embedded import HAXBY_DELAY, EmbeddedRestRun, EmbeddedRun, haxby_runs, rest_run
from nstorm.data.example_study import example_study
from nstorm.data.files.bids_name import bids_entities
from nstorm.data.files.decompress import decompress
from nstorm.data.files.masks import load_mask
from nstorm.data.files.reader import BOLDFile, load_bold
from nstorm.data.files.writer import save_bold, save_mask
from nstorm.data.layout import time_axis, time_first, time_last
from nstorm.data.normalize import percent_signal_change, voxels_that_vary, zscore_global, zscore_voxels
from nstorm.data.parcels.atlas import Atlas, load_atlas, schaefer_atlas
from nstorm.data.parcels.atlas_space import parcel_coverage, resample_atlas
from nstorm.data.parcels.connectivity import TangentSpace, connectivity
from nstorm.data.parcels.series import ParcelSeries, parcel_time_series
from nstorm.data.preparation.failures import PrepareError
from nstorm.data.preparation.from_published import convert_published, published_runs
from nstorm.data.preparation.presets import PRESETS
from nstorm.data.preparation.recipe import Recipe
from nstorm.data.preparation.run_all import prepare
from nstorm.data.published import prepare_published
from nstorm.data.report.page import quality_report
from nstorm.data.report.table import quality_table
from nstorm.data.space.brain_mask import apply_mask, brain_mask
from nstorm.data.space.crop_or_pad import crop_or_pad, crop_to_mask
from nstorm.data.space.grid import Grid, grid_of, mni152_grid, same_grid
from nstorm.data.space.orientation import axcodes_of, reorient
from nstorm.data.space.resample_space import resample_space
from nstorm.data.space.sampling import sample_volume
from nstorm.data.splits.leakage import check_leakage
from nstorm.data.splits.methods import (
    k_folds,
    leave_one_site_out,
    split_by_site,
    split_by_subject,
    split_runs_within_subject,
)
from nstorm.data.splits.split import Split
from nstorm.data.store.published_format import load_published
from nstorm.data.store.store import Store
from nstorm.data.store.stored_run import StoredRun
from nstorm.data.study.open import open_study
from nstorm.data.study.problem import Problem
from nstorm.data.study.study import Study
from nstorm.data.time.clean import clean
from nstorm.data.time.confounds import Confounds, load_confounds
from nstorm.data.time.resample_time import remove_dummy_scans, resample_time
from nstorm.data.time.scrub import dvars, framewise_displacement, scrub

__all__ = [
    "HAXBY_DELAY",
    "PRESETS",
    "Atlas",
    "BOLDFile",
    "BalancedSampler",
    "ClipDataset",
    "ClipSampler",
    "Confounds",
    "EmbeddedRestRun",
    "EmbeddedRun",
    "Event",
    "Grid",
    "GroupBatchSampler",
    "ParcelSeries",
    "PrepareError",
    "Problem",
    "Recipe",
    "Split",
    "Store",
    "StoredRun",
    "Study",
    "TangentSpace",
    "apply_mask",
    "axcodes_of",
    "bids_entities",
    "brain_mask",
    "check_leakage",
    "clean",
    "collate_brain",
    "collate_clips",
    "connectivity",
    "convert_published",
    "crop_or_pad",
    "crop_to_mask",
    "decompress",
    "dvars",
    "event_clips",
    "example_study",
    "framewise_displacement",
    "grid_of",
    "haxby_runs",
    "k_folds",
    "leave_one_site_out",
    "load_atlas",
    "load_bold",
    "load_confounds",
    "load_mask",
    "load_published",
    "merge_events",
    "mni152_grid",
    "open_study",
    "parcel_coverage",
    "parcel_time_series",
    "percent_signal_change",
    "prepare",
    "prepare_published",
    "published_runs",
    "quality_report",
    "quality_table",
    "random_clips",
    "read_events",
    "remove_dummy_scans",
    "reorient",
    "resample_atlas",
    "resample_space",
    "resample_time",
    "rest_run",
    "run_item",
    "same_grid",
    "sample_volume",
    "save_bold",
    "save_mask",
    "schaefer_atlas",
    "scrub",
    "split_by_site",
    "split_by_subject",
    "split_runs_within_subject",
    "stored_runs",
    "strided_clips",
    "time_axis",
    "time_first",
    "time_last",
    "to_dense",
    "voxels_that_vary",
    "zscore_global",
    "zscore_voxels",
]
