"""The work of the fracture pipeline by cc3d, SciPy and scikit-image, on arrays in memory."""

import cc3d
import numpy as np
import tifffile
from scipy import ndimage, sparse
from scipy.interpolate import LinearNDInterpolator, griddata
from scipy.spatial import cKDTree
from skimage import measure

FULL = np.ones((3, 3, 3))


def cc3d_statistics(volume):
    """Sizes, boxes and centroids."""
    labels = cc3d.connected_components(volume, connectivity=26)
    return cc3d.statistics(labels)


def scipy_statistics(volume):
    """Sizes and boxes."""
    labels, _ = ndimage.label(volume, FULL)
    return np.bincount(labels.ravel()), ndimage.find_objects(labels)


def skimage_statistics(volume):
    """Sizes only."""
    return np.bincount(measure.label(volume, connectivity=3).ravel())


def cc3d_largest(volume):
    """The largest cluster as 0 and 255."""
    return cc3d.largest_k(volume, k=1, connectivity=26).astype(np.uint8) * np.uint8(255)


def scipy_largest(volume):
    """The largest cluster as 0 and 255."""
    labels, n = ndimage.label(volume, FULL)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    return (labels == sizes.argmax()).astype(np.uint8) * np.uint8(255)


def graph_largest(volume):
    """Places of the largest cluster by the voxel graph."""
    points = np.argwhere(volume)
    pairs = cKDTree(points).query_pairs(1.8, output_type="ndarray")
    n = len(points)
    matrix = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(n, n))
    _, cluster = sparse.csgraph.connected_components(matrix, directed=False)
    return np.flatnonzero(volume)[cluster == np.bincount(cluster).argmax()]


def patch_griddata(image):
    """Linear from all valid cells, nearest outside of their hull."""
    valid = np.isfinite(image)
    points, values = np.argwhere(valid), image[valid]
    out = image.copy()
    out[~valid] = griddata(points, values, np.argwhere(~valid), "linear")
    outside = np.isnan(out)
    out[outside] = griddata(points, values, np.argwhere(outside), "nearest")
    return out


def patch_rims(image):
    """Linear from the valid cells beside a hole, nearest outside of their hull."""
    valid = np.isfinite(image)
    rim = valid & ndimage.binary_dilation(~valid)
    out = image.copy()
    out[~valid] = LinearNDInterpolator(np.argwhere(rim), image[rim])(np.argwhere(~valid))
    outside = np.isnan(out)
    out[outside] = griddata(np.argwhere(rim), image[rim], np.argwhere(outside), "nearest")
    return out


def maps(volume):
    """Aperture and offset along y."""
    open_ = volume > 0
    aperture = open_.sum(axis=1)
    return aperture, np.where(aperture > 0, open_.argmax(axis=1), np.nan)


def pipeline(path, folder):
    """Largest cluster, its maps patched, filtered and patched again, and all of it written."""
    kept = cc3d_largest(tifffile.imread(path))
    aperture, offset = maps(kept)
    offset = patch_rims(offset)
    gradients = np.gradient(offset)
    steep = np.percentile(np.hypot(*gradients), 99)
    parts, _ = ndimage.label((np.abs(gradients[0]) <= steep) & (np.abs(gradients[1]) <= steep))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    offset = patch_rims(np.where(parts == sizes.argmax(), offset, np.nan))
    np.savetxt(folder / "aperture.txt", aperture, "%d", "\t")
    np.savetxt(folder / "offset.txt", offset, "%f", "\t")
    tifffile.imwrite(folder / "processed.tif", kept)
