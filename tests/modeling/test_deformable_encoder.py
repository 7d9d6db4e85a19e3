import pytest
import torch
from torch.nn import functional as F

from sap_detr.modeling import DeformableEncoder, FeatureMap

HEADS, POINTS, WIDTH = 2, 2, 8
# Of the map, and of what of it is not padding: of each image, (H, W) of every level.
SIZES = [(4, 6), (2, 3), (1, 2)]
VALID = [[(4, 6), (2, 3), (1, 2)], [(3, 4), (2, 2), (1, 1)]]


def make_encoder(num_layers: int = 2, dtype=torch.float64, **options) -> DeformableEncoder:
    """With random weights everywhere, so that everything has an effect."""
    options = {"ffn_dim": 12, "dropout": 0.0, "num_levels": 3, "num_points": POINTS, **options}
    encoder = DeformableEncoder(num_layers, WIDTH, HEADS, **options).to(dtype)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return encoder


def make_maps(padded: bool, dtype=torch.float64) -> list[FeatureMap]:
    """Two images; padding has features and positions of its own."""
    maps = []
    for level, size in enumerate(SIZES):
        features = torch.randn(2, WIDTH, *size, dtype=dtype)
        position = torch.randn(2 if padded else 1, WIDTH, *size, dtype=dtype)
        mask = None
        if padded:
            mask = torch.ones(2, *size, dtype=torch.bool)
            for image, valid in enumerate(VALID):
                height, width = valid[level]
                mask[image, :height, :width] = False
        maps.append(FeatureMap(features, position, mask))
    return maps


def one_image(maps: list[FeatureMap], image: int, cropped: bool) -> list[FeatureMap]:
    """One image of a batch, with its padding or without."""
    chosen = []
    for level, size in zip(maps, VALID[image], strict=True):
        height, width = size if cropped else level.features.shape[-2:]
        index = image if len(level.position) > 1 else 0
        mask = None
        if level.padding_mask is not None and not cropped:
            mask = level.padding_mask[image : image + 1]
        chosen.append(
            FeatureMap(
                level.features[image : image + 1, :, :height, :width],
                level.position[index : index + 1, :, :height, :width],
                mask,
            )
        )
    return chosen


def written_out(encoder: DeformableEncoder, maps: list[FeatureMap]) -> list[torch.Tensor]:
    """The memories (D, H, W) of a single image, level by level and cell by cell."""
    levels = range(len(maps))
    sizes = [level.features.shape[-2:] for level in maps]
    tokens = [level.features[0].permute(1, 2, 0) for level in maps]
    position = [maps[i].position[0].permute(1, 2, 0) + encoder.level_embed[i] for i in levels]
    masks = [
        torch.zeros(sizes[i], dtype=torch.bool) if (x := maps[i].padding_mask) is None else x[0]
        for i in levels
    ]
    ratios = [((~x[0]).double().mean(), (~x[:, 0]).double().mean()) for x in masks]
    for layer in encoder.layers:
        values = []
        for i in levels:
            value = layer.self_attn.value_proj(tokens[i])
            value[masks[i]] = 0
            values.append(value.unflatten(-1, (HEADS, -1)))
        mixed = []
        for i in levels:
            (height, width), (x_ratio, y_ratio) = sizes[i], ratios[i]
            out = torch.empty_like(tokens[i])
            for row in range(height):
                for column in range(width):
                    token = tokens[i][row, column]
                    query = token + position[i][row, column]
                    offsets = layer.self_attn.sampling_offsets(query)
                    offsets = offsets.view(HEADS, len(maps), POINTS, 2)
                    weights = layer.self_attn.attention_weights(query)
                    weights = weights.view(HEADS, -1).softmax(-1).view(HEADS, len(maps), POINTS)
                    x = (column + 0.5) / (x_ratio * width)
                    y = (row + 0.5) / (y_ratio * height)
                    heads = []
                    for head in range(HEADS):
                        total = 0
                        for k in levels:
                            size = torch.tensor([sizes[k][1], sizes[k][0]])
                            point = torch.stack((x * ratios[k][0], y * ratios[k][1]))
                            location = point + offsets[head, k] / size
                            samples = F.grid_sample(
                                values[k][:, :, head].permute(2, 0, 1)[None],
                                2 * location[None, None] - 1,
                                align_corners=False,
                            )
                            total = total + samples[0, :, 0] @ weights[head, k]
                        heads.append(total)
                    attended = layer.norm1(token + layer.self_attn.output_proj(torch.cat(heads)))
                    hidden = layer.ffn.linear1(attended).relu()
                    out[row, column] = layer.norm2(attended + layer.ffn.linear2(hidden))
            mixed.append(out)
        tokens = mixed
    return [x.permute(2, 0, 1) for x in tokens]


@pytest.mark.parametrize("padded", [False, True])
def test_a_batch_is_its_images_written_out(padded):
    encoder, maps = make_encoder(), make_maps(padded)
    with torch.no_grad():
        memories = encoder(maps)
        for image in range(2):
            expected = written_out(encoder, one_image(maps, image, cropped=False))
            for memory, level in zip(memories, expected, strict=True):
                # Padded cells too: they are computed like all others.
                assert (memory.features[image] - level).abs().max() < 1e-10


def test_an_image_is_the_same_alone_and_padded():
    encoder, maps = make_encoder(), make_maps(padded=True)
    with torch.no_grad():
        memories = encoder(maps)
        alone = encoder(one_image(maps, 1, cropped=True))
    for memory, expected in zip(memories, alone, strict=True):
        height, width = expected.features.shape[-2:]
        difference = memory.features[1:, :, :height, :width] - expected.features
        assert difference.abs().max() < 1e-10


@pytest.mark.parametrize("padded", [False, True])
def test_positions_of_the_memories_have_the_level_embedding(padded):
    encoder, maps = make_encoder(), make_maps(padded)
    memories = encoder(maps)
    for memory, level, embed in zip(memories, maps, encoder.level_embed, strict=True):
        assert torch.equal(memory.position, level.position + embed.view(1, -1, 1, 1))
        assert memory.padding_mask is level.padding_mask


def test_gradients_reach_all_parameters_and_inputs():
    encoder, maps = make_encoder(), make_maps(padded=True)
    for level in maps:
        level.features.requires_grad_()
    sum(memory.features[0].square().sum() for memory in encoder(maps)).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.any(), name
    for level in maps:
        assert level.features.grad[0].any()
        # Images know nothing of one another.
        assert not level.features.grad[1].any()


def test_initialised_as_published():
    encoder = DeformableEncoder(3, 64, 8, 32, 0.0, 3, 4)
    first, second, _ = encoder.layers
    fresh = DeformableEncoder(1, 64, 8, 32, 0.0, 3, 4).layers[0].self_attn
    for layer in encoder.layers:
        attention = layer.self_attn
        assert torch.equal(attention.sampling_offsets.bias, fresh.sampling_offsets.bias)
        for linear in (attention.sampling_offsets, attention.attention_weights):
            assert not linear.weight.any()
        assert not attention.value_proj.bias.any()
        # Xavier's bound; 1/8 is that of PyTorch's default.
        bound = (6 / 96) ** 0.5
        assert 0.9 * bound < layer.ffn.linear1.weight.abs().max() <= bound
    assert attention.sampling_offsets.bias.any()
    for name in ("self_attn.value_proj", "self_attn.output_proj", "ffn.linear1", "ffn.linear2"):
        one, other = (layer.get_submodule(name) for layer in (first, second))
        assert not torch.equal(one.weight, other.weight)
        assert torch.equal(one.bias, other.bias)
    assert 0.7 < encoder.level_embed.std() < 1.3


def test_parameter_names():
    names = set(DeformableEncoder(2).state_dict())
    layer = {
        f"{module}.{kind}"
        for module in (
            "self_attn.sampling_offsets",
            "self_attn.attention_weights",
            "self_attn.value_proj",
            "self_attn.output_proj",
            "ffn.linear1",
            "ffn.linear2",
            "norm1",
            "norm2",
        )
        for kind in ("weight", "bias")
    }
    assert names == {"level_embed"} | {f"layers.{i}.{name}" for i in (0, 1) for name in layer}
    assert DeformableEncoder(1).level_embed.shape == (3, 256)


def test_other_numbers_of_levels_are_refused():
    with pytest.raises(ValueError, match=r"num_levels=3 feature levels, got 2"):
        make_encoder()(make_maps(padded=False)[:2])


@pytest.mark.parametrize("padded", [False, True])
def test_no_number_is_read_on_the_host(padded, copies_to_host):
    encoder, maps = make_encoder(), make_maps(padded)
    assert copies_to_host(lambda: encoder(maps)) == []


def test_autocast_is_near_full_precision():
    encoder, maps = make_encoder(1, torch.float32), make_maps(True, torch.float32)
    expected = encoder(maps)
    with torch.autocast("cpu", torch.bfloat16):
        memories = encoder(maps)
    for memory, level in zip(memories, expected, strict=True):
        difference = (memory.features - level.features).abs()
        assert difference.mean() < 0.02
        assert difference.max() < 0.2


def test_compiles_as_one_graph():
    encoder, maps = make_encoder(1), make_maps(padded=True)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    for memory, level in zip(compiled(maps), encoder(maps), strict=True):
        assert (memory.features - level.features).abs().max() < 1e-10
