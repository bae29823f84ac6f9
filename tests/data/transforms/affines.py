"""Affines of three kinds, and where they put the voxels of one shape."""

import numpy as np

SHAPE = (31, 26, 23)


def affine_with(sizes, angle=0.0, flip=1.0):
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ np.diag([flip * sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = 12, -30, 7
    return affine


AFFINES = {
    "isotropic": affine_with((2.0, 2.0, 2.0)),
    "anisotropic": affine_with((2.0, 3.0, 4.0)),
    "oblique, LAS": affine_with((2.0, 3.0, 4.0), angle=0.4, flip=-1.0),
}


def positions(affine, shape=SHAPE):
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]
