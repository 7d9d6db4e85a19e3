import math

import pytest
import torch

from sap_detr.layers import SinePositionEncoding, sine_encoding


def mask_of(sizes: list[tuple[int, int]], height: int, width: int) -> torch.Tensor:
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for image, (rows, columns) in enumerate(sizes):
        mask[image, :rows, :columns] = False
    return mask


def written_out(mask: list[list[bool]], channels: int, temperature: float) -> list:
    """The published encoding of one image, cell by cell: [channel][row][column]."""
    height, width = len(mask), len(mask[0])
    half = channels // 2
    result = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    for i in range(height):
        for j in range(width):
            y = sum(not mask[row][j] for row in range(i + 1))
            y_last = sum(not mask[row][j] for row in range(height))
            x = sum(not mask[i][column] for column in range(j + 1))
            x_last = sum(not mask[i][column] for column in range(width))
            for offset, count, last in ((0, y, y_last), (half, x, x_last)):
                phase = 2 * math.pi * count / (last + 1e-6)
                for k in range(half):
                    t = temperature ** (2 * (k // 2) / half)
                    wave = math.cos if k % 2 else math.sin
                    result[offset + k][i][j] = wave(phase / t)
    return result


@pytest.mark.parametrize("temperature", [10000.0, 20.0])
def test_equals_the_published_formula(temperature):
    # The second image has columns and rows of nothing but padding.
    mask = mask_of([(5, 6), (3, 4), (5, 2)], 5, 6)
    found = SinePositionEncoding(16, temperature)(mask, torch.float64)
    expected = [written_out(image, 16, temperature) for image in mask.tolist()]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_channels_of_y_come_first():
    encoding = SinePositionEncoding(8)(mask_of([(3, 4)], 3, 4), torch.float64)[0]
    y, x = encoding.split(4)
    assert torch.equal(y, y[:, :, :1].expand_as(y))
    assert torch.equal(x, x[:, :1].expand_as(x))
    assert (y[:, 1:] != y[:, :-1]).any()
    assert (x[:, :, 1:] != x[:, :, :-1]).any()


def test_an_image_has_the_same_encoding_alone_and_padded():
    encode = SinePositionEncoding(16)
    alone = encode(mask_of([(3, 4)], 3, 4), torch.float64)
    padded = encode(mask_of([(5, 7), (3, 4)], 5, 7), torch.float64)
    assert torch.equal(padded[1:, :, :3, :4], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    assert SinePositionEncoding(8)(mask_of([(2, 2)], 3, 3), dtype).dtype == dtype
    assert sine_encoding(torch.zeros(3, dtype=dtype), 4, 20.0).dtype == dtype


def test_no_float32_hides_in_float64():
    phase = torch.rand(50, dtype=torch.float64) * 6
    expected = [
        [(math.cos if k % 2 else math.sin)(p / 10000.0 ** (2 * (k // 2) / 128)) for k in range(128)]
        for p in phase.tolist()
    ]
    found = sine_encoding(phase, 128, 10000.0)
    assert (found - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-14


def test_width_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="embed_dim=6 must be a multiple of 4"):
        SinePositionEncoding(6)
