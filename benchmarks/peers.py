"""The same work by OpenCV, SciPy and scikit-image, composed as today's tools compose it."""

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

from cytolith.kernels.footprints import ellipsoid

cv2.setNumThreads(1)


def open_and_subtract(volume, size):
    """Background removal, a plane at a time."""
    disk = ellipsoid((size, size)).astype(np.uint8)
    return np.stack([p - np.minimum(p, cv2.morphologyEx(p, cv2.MORPH_OPEN, disk)) for p in volume])


def dog_kernel(shape):
    """Dense difference of two Gaussians on a box, each of sum 1."""
    grids = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    sigma2 = np.array(shape) / (2 * np.sqrt(2 * np.log(2)))

    def gauss(sigma):
        kernel = np.exp(-sum((g / s) ** 2 for g, s in zip(grids, sigma, strict=True)) / 2)
        return kernel / kernel.sum()

    return (gauss(sigma2 / 1.5) - gauss(sigma2)).astype(np.float32)


def dog(volume, shape):
    """Dense correlation in float32, negatives 0."""
    return np.maximum(ndimage.correlate(volume.astype(np.float32), dog_kernel(shape)), 0)


def maxima(image, size, threshold):
    """Local maxima: maximum filter and comparison."""
    return (ndimage.maximum_filter(image, size) == image) & (image >= threshold)


def extended_maxima(image, h, threshold):
    """Extended maxima: reconstruction, then its maxima."""
    image = image.astype(np.float32)
    raised = reconstruction(image - h, image)
    return (ndimage.maximum_filter(raised, 5) == raised) & (image >= threshold)


def shapes_and_measures(final, images, seeds, threshold):
    """Watershed on the mask, then size and the maximum of each image."""
    markers = np.zeros(final.shape, np.int32)
    markers[seeds] = np.arange(1, np.count_nonzero(seeds) + 1)
    labels = watershed(-final.astype(np.float64), markers, mask=final > threshold)
    index = np.arange(1, markers.max() + 1)
    size = np.bincount(labels.ravel(), minlength=index.size + 1)[1:]
    return size, [ndimage.maximum(image, labels, index) for image in images]


def percentiles(volume, selem, spacing, fractions):
    """A window at a time."""
    counts = [max(s // h, 1) for s, h in zip(volume.shape, spacing, strict=True)]
    starts = [(s - (n - 1) * h) // 2 for s, n, h in zip(volume.shape, counts, spacing, strict=True)]
    grid = np.empty((*counts, len(fractions)))
    for index in np.ndindex(*counts):
        centre = [a + i * h for a, i, h in zip(starts, index, spacing, strict=True)]
        window = tuple(slice(max(0, c - w // 2), c + w - w // 2) for c, w in zip(centre, selem, strict=True))
        grid[index] = np.percentile(volume[window], [100 * f for f in fractions])
    return grid


def equalized(volume, selem, spacing, fractions=(0.5, 0.95), limit=1.5):
    """Gain from local percentiles, enlarged by spline zoom of order 1."""
    grid = percentiles(volume, selem, spacing, fractions)
    zoom = [s / n for s, n in zip(volume.shape, grid.shape, strict=False)]
    low, high = (ndimage.zoom(grid[..., i], zoom, order=1) for i in range(2))
    gain = 1 / np.maximum(low, 1)
    over = high * gain > limit
    gain[over] = limit / high[over]
    return volume * gain


def pipeline(volume, *, disk=10, threshold=700, size=5):
    """Default chain: background, maxima, watershed, measures."""
    background = open_and_subtract(volume, disk)
    seeds = maxima(background, size, threshold)
    return shapes_and_measures(background, [volume, background], seeds, threshold)


def pipeline_smoothed(volume, *, disk=10, sigma=(0.7, 1.48, 1.48), peak=600, threshold=300):
    """Chain with smoothing."""
    background = open_and_subtract(volume, disk)
    final = ndimage.gaussian_filter(background.astype(np.float32), sigma, truncate=3)
    return shapes_and_measures(final, [volume, background], maxima(final, (3, 5, 5), peak), threshold)


def pipeline_full(volume, *, disk=10, h=0.05, threshold=0.1):
    """Chain with equalization, difference of Gaussians and extended maxima."""
    background = open_and_subtract(volume, disk)
    final = dog(equalized(background, (5, 200, 200), (5, 50, 50)), (6, 6, 6))
    return shapes_and_measures(final, [volume, background], extended_maxima(final, h, threshold), threshold)
