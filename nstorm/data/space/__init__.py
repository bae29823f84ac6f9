"""Where voxels lie: grids, orientation, sampling, cropping, and the brain in them."""
