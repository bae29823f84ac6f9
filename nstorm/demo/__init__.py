"""The main job: learn from a recording what a person was looking at, beside simple baselines, with a report."""

from nstorm.demo.pretraining import PretrainingRecipe
from nstorm.demo.recording import haxby_recording, recording_from_file
from nstorm.demo.run import run_demo

__all__ = ["PretrainingRecipe", "haxby_recording", "recording_from_file", "run_demo"]
