"""MONAI transforms for 4D fMRI: array forms, and dictionary forms whose names end in ``d``.

Every dictionary form ``Food`` also has MONAI's other two names, ``FooD`` and ``FooDict``.
"""

from nstorm.data.transforms.base import OnKeys
from nstorm.data.transforms.layout import TimeToFirst, TimeToFirstd, TimeToLast, TimeToLastd

__all__ = [
    "TimeToFirst",
    "TimeToFirstd",
    "TimeToLast",
    "TimeToLastd",
]

for _name in __all__:
    if isinstance(_form := globals()[_name], type) and issubclass(_form, OnKeys):
        globals()[_name[:-1] + "D"] = globals()[_name[:-1] + "Dict"] = _form
