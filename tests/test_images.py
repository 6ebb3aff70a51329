import numpy as np
import pytest
from PIL import Image

from neuroevo import images


@pytest.mark.parametrize(("width", "height"), [(8, 8), (20, 10), (10, 30), (33, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_shape_are_cut_to_the_centre(width: int, height: int, channels: int) -> None:
    x = np.zeros((height, width, 3), dtype=np.uint8)
    x[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2] = 255
    out = images.pixels(Image.fromarray(x), channels, (8, 8), Image.Resampling.BILINEAR)
    assert out.shape == (8, 8, channels)
    assert out[3:5, 3:5].min() > 100
