"""Write the photos of the quick start here: pets/ with two classes, and photo.jpg.

They are cut out of the two photographs that scikit-learn brings, so that nothing is downloaded. `.ci/run` uses them.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

SIZE, COUNT = 160, 60
rng = np.random.default_rng(0)
for name, photo in (("cat", "china.jpg"), ("dog", "flower.jpg")):
    pixels = load_sample_image(photo)
    folder = Path("pets", name)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(COUNT + 1):
        top, left = rng.integers(0, pixels.shape[0] - SIZE), rng.integers(0, pixels.shape[1] - SIZE)
        file = folder / f"{i}.jpg" if i < COUNT else Path("photo.jpg")
        Image.fromarray(pixels[top : top + SIZE, left : left + SIZE]).save(file)
