"""The main job: learn from a recording what a person was looking at, beside a simple baseline, with a report."""

from nstorm.demo.run import run_demo

__all__ = ["run_demo"]
