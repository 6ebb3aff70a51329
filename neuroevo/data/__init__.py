"""The samples that a network learns from: images, files, arrays, their splits, and their cached features."""
