"""On what samples: images, files, arrays, their splits, and the features that are cached of them."""
