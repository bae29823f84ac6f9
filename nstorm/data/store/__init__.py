"""Runs on disk or in an object store: in-brain voxels only, chunked in time, each run whole or not there."""
