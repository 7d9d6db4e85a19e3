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


def ragged_mask() -> torch.Tensor:
    """The second image has whole rows and columns of padding, the third is 1 cell."""
    return mask_of([(5, 6), (3, 4), (1, 1)], 5, 6)


def test_cell_centres_count_from_a_half():
    mask = ragged_mask()
    found = SinePositionEncoding(16, cell_centres=True)(mask, torch.float64)
    for image, (rows, columns) in enumerate([(5, 6), (3, 4), (1, 1)]):
        for length, at, axis in ((rows, 0, "y"), (columns, 8, "x")):
            centres = (torch.arange(length, dtype=torch.float64) + 0.5) / (length + 1e-6)
            expected = sine_encoding(2 * math.pi * centres, 8, 10000.0)
            line = found[image, at : at + 8]
            line = line[:, :length, 0] if axis == "y" else line[:, 0, :length]
            torch.testing.assert_close(line.T, expected, rtol=0, atol=1e-10)


def test_published_arithmetic_decides_on_what_is_only_padding():
    """In the last column of the smaller image the divisor is what is left of (-0.5 + eps) + 0.5."""
    encoding = SinePositionEncoding(16, cell_centres=True)(ragged_mask(), torch.float64)[1]
    # No row is valid there: the count is -0.5.
    phase = torch.tensor(-0.5 / ((-0.5 + 1e-6) + 0.5) * 2 * math.pi, dtype=torch.float64)
    expected = sine_encoding(phase, 8, 10000.0)
    torch.testing.assert_close(encoding[:8, 0, 5], expected, rtol=0, atol=1e-8)
    assert abs(phase) > 3e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_well_conditioned_form_differs_on_padding_only(dtype):
    mask = ragged_mask()
    published = SinePositionEncoding(16, cell_centres=True)(mask, dtype)
    ours = SinePositionEncoding(16, cell_centres=True, well_conditioned=True)(mask, dtype)
    difference = (published - ours).abs().amax(1)
    assert difference[~mask].max() < 1e-5
    assert difference[mask].max() > 0.1
    # And it is the same in both precisions, which the published one is not.
    other = torch.float64 if dtype is torch.float32 else torch.float32
    again = SinePositionEncoding(16, cell_centres=True, well_conditioned=True)(mask, other)
    assert (again - ours).abs().max() < 1e-5
    noisy = SinePositionEncoding(16, cell_centres=True)(mask, other)
    assert (noisy - published).abs().max() > 0.1
