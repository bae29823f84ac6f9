"""MONAI transforms for 4D fMRI: array forms, and dictionary forms whose names end in ``d``.

Every dictionary form ``Food`` also has MONAI's other two names, ``FooD`` and ``FooDict``.
"""

from monai.transforms.transform import MapTransform

from nstorm.data.transforms.batch import OnBatch
from nstorm.data.transforms.brain_mask import ApplyMask, ApplyMaskd, BrainMask, BrainMaskd
from nstorm.data.transforms.compose import Compose
from nstorm.data.transforms.confounds import LoadConfoundsD, LoadConfoundsd, LoadConfoundsDict
from nstorm.data.transforms.intensity import (
    GlobalZScore,
    GlobalZScored,
    PercentSignalChange,
    PercentSignalChanged,
    ZScoreVoxels,
    ZScoreVoxelsd,
)
from nstorm.data.transforms.io import LoadBOLD, LoadBOLDd, LoadMask, LoadMaskd, SaveBOLD, SaveBOLDd
from nstorm.data.transforms.layout import TimeToFirst, TimeToFirstd, TimeToLast, TimeToLastd
from nstorm.data.transforms.parcels import Connectivity, Connectivityd, ParcelTimeSeries, ParcelTimeSeriesd
from nstorm.data.transforms.published import PublishedPreprocessing, PublishedPreprocessingd
from nstorm.data.transforms.rand_affine import RandBOLDAffine, RandBOLDAffined
from nstorm.data.transforms.rand_drift import RandDrift, RandDriftd
from nstorm.data.transforms.rand_elastic import RandBOLDElastic, RandBOLDElasticd
from nstorm.data.transforms.rand_flip import RandFlipLR, RandFlipLRd
from nstorm.data.transforms.rand_frames import RandFrameDropout, RandFrameDropoutd, RandSpikes, RandSpikesd
from nstorm.data.transforms.rand_intensity import (
    RandBOLDBiasField,
    RandBOLDBiasFieldd,
    RandBOLDNoise,
    RandBOLDNoised,
    RandBOLDSmooth,
    RandBOLDSmoothd,
)
from nstorm.data.transforms.rand_load_clip import RandLoadClip, RandLoadClipd
from nstorm.data.transforms.rand_motion import RandMotion, RandMotiond
from nstorm.data.transforms.rand_temporal import (
    RandTemporalCrop,
    RandTemporalCropd,
    RandTemporalJitter,
    RandTemporalJitterd,
)
from nstorm.data.transforms.spatial import (
    CropOrPad,
    CropOrPadd,
    CropToMask,
    CropToMaskd,
    Reorient,
    Reorientd,
    ResampleSpace,
    ResampleSpaced,
)
from nstorm.data.transforms.temporal import (
    Clean,
    Cleand,
    RemoveDummyScans,
    RemoveDummyScansd,
    ResampleTime,
    ResampleTimed,
    Scrub,
    Scrubd,
)
from nstorm.data.transforms.time_as_channel import TimeAsChannel, TimeAsChanneld
from nstorm.data.transforms.views import Views, Viewsd

__all__ = [
    "ApplyMask",
    "ApplyMaskd",
    "BrainMask",
    "BrainMaskd",
    "Clean",
    "Cleand",
    "Compose",
    "Connectivity",
    "Connectivityd",
    "CropOrPad",
    "CropOrPadd",
    "CropToMask",
    "CropToMaskd",
    "GlobalZScore",
    "GlobalZScored",
    "LoadBOLD",
    "LoadBOLDd",
    "LoadConfoundsD",
    "LoadConfoundsDict",
    "LoadConfoundsd",
    "LoadMask",
    "LoadMaskd",
    "OnBatch",
    "ParcelTimeSeries",
    "ParcelTimeSeriesd",
    "PercentSignalChange",
    "PercentSignalChanged",
    "PublishedPreprocessing",
    "PublishedPreprocessingd",
    "RandBOLDAffine",
    "RandBOLDAffined",
    "RandBOLDBiasField",
    "RandBOLDBiasFieldd",
    "RandBOLDElastic",
    "RandBOLDElasticd",
    "RandBOLDNoise",
    "RandBOLDNoised",
    "RandBOLDSmooth",
    "RandBOLDSmoothd",
    "RandDrift",
    "RandDriftd",
    "RandFlipLR",
    "RandFlipLRd",
    "RandFrameDropout",
    "RandFrameDropoutd",
    "RandLoadClip",
    "RandLoadClipd",
    "RandMotion",
    "RandMotiond",
    "RandSpikes",
    "RandSpikesd",
    "RandTemporalCrop",
    "RandTemporalCropd",
    "RandTemporalJitter",
    "RandTemporalJitterd",
    "RemoveDummyScans",
    "RemoveDummyScansd",
    "Reorient",
    "Reorientd",
    "ResampleSpace",
    "ResampleSpaced",
    "ResampleTime",
    "ResampleTimed",
    "SaveBOLD",
    "SaveBOLDd",
    "Scrub",
    "Scrubd",
    "TimeAsChannel",
    "TimeAsChanneld",
    "TimeToFirst",
    "TimeToFirstd",
    "TimeToLast",
    "TimeToLastd",
    "Views",
    "Viewsd",
    "ZScoreVoxels",
    "ZScoreVoxelsd",
]

for _name in __all__:
    _form = globals()[_name]
    if issubclass(_form, MapTransform):
        globals()[_name[:-1] + "D"] = globals()[_name[:-1] + "Dict"] = _form
