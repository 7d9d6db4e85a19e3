"""SAM-DETR beside the golden cases: its parts, its variants, its configs."""

from __future__ import annotations

from dataclasses import replace

import golden_cases
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from sap_detr import model_zoo
from sap_detr.layers import sine_encoding
from sap_detr.modeling import FeatureMap
from sap_detr.projects import load_projects
from sap_detr.projects.sam_detr import SAM_DETR, SamDetrDecoder, SemanticsAligner
from sap_detr.projects.sam_detr.aligner import without_pooling

RECIPES = sorted(
    name
    for name in model_zoo.list_configs()
    if name.startswith("sam_detr/") and "_r50_" in name and name.endswith(("_12ep.py", "_50ep.py"))
)


def make_decoder(**changes) -> SamDetrDecoder:
    arguments = dict(
        num_classes=3,
        num_queries=6,
        layer_levels=[0, 0],
        embed_dim=32,
        num_heads=4,
        ffn_dim=16,
        dropout=0.0,
    )
    return SamDetrDecoder(**{**arguments, **changes}).double()


def make_memory(sizes=((5, 7),), batch: int = 2, width: int = 32) -> list[FeatureMap]:
    levels = []
    for height, columns in sizes:
        mask = torch.zeros(batch, height, columns, dtype=torch.bool)
        mask[-1, :, columns // 2 + 1 :] = True
        features, position = torch.randn(2, batch, width, height, columns, dtype=torch.float64)
        levels.append(FeatureMap(features, position, mask))
    return levels


@pytest.fixture
def small_model() -> nn.Module:
    """The small model of several levels with two classes, its heads perturbed."""
    model = build_small("sam_detr/common/sam_detr_ms_small.py")
    randomised(model.decoder)
    return model


def build_small(name: str) -> nn.Module:
    cfg = model_zoo.get_config(name).model
    cfg.num_classes = 2
    cfg.backbone.width = 16
    cfg.neck.in_channels = [32, 64, 128][: len(cfg.neck.in_channels)]
    cfg.neck.embed_dim = 32
    return instantiate(cfg)


def randomised(decoder: SamDetrDecoder) -> None:
    """Gives the box heads' last layers, which start as zeros, something to do."""
    for head in decoder.box_heads:
        nn.init.normal_(head.layers[-1].weight, std=0.3)


def inputs_of(*sizes: tuple[int, int]) -> list[dict]:
    inputs = []
    for height, width in sizes:
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 5.0, width - 8.0, height - 6.0]]))
        instances.gt_classes = torch.tensor([1])
        inputs.append({"image": torch.rand(3, height, width) * 255, "instances": instances})
    return inputs


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("size", [(4, 5), (40, 50)])
def test_aligner_is_the_written_out_one(gaussian, size):
    """RoIAlign, convolution, bilinear samples and sines with the usual operators."""
    width, heads, queries, (height, columns) = 16, 4, 5, size
    aligner = SemanticsAligner(width, heads, 10000.0, gaussian).double()
    content = torch.randn(2, queries, width, dtype=torch.float64)
    boxes = torch.rand(2, queries, 4, dtype=torch.float64)
    memory = torch.randn(2, height * columns, width, dtype=torch.float64)
    extent = torch.tensor([[columns, height], [columns - 1, height - 2]], dtype=torch.float64)
    found = aligner(content, boxes, memory, size, extent)

    centre, side = boxes.split(2, dim=-1)
    corners = (
        torch.cat((centre - side / 2, centre + side / 2), dim=-1) * extent.repeat(1, 2)[:, None]
    )
    maps = memory.transpose(1, 2).unflatten(2, size)
    regions = roi_align(maps, list(corners), 7, aligned=True)
    x = F.relu(aligner.point_conv(regions)).flatten(1)
    for layer in aligner.point_mlp[:-1]:
        x = F.relu(layer(x))
    x = aligner.point_mlp[-1](x)
    direction = x[:, : 2 * heads].view(-1, heads, 1, 2).tanh()
    sampled = F.grid_sample(regions, direction, align_corners=False)[..., 0]
    sampled = sampled.transpose(1, 2).view(2, queries, heads, width)
    content_scale = aligner.content_scale(content).sigmoid().view(2, queries, heads, width)
    torch.testing.assert_close(found.content, sampled * content_scale, rtol=0, atol=1e-10)
    points = centre[:, :, None] + side[:, :, None] / 2 * direction.view(2, queries, heads, 2)
    torch.testing.assert_close(found.points, points, rtol=0, atol=1e-12)
    y, x_sine = (
        sine_encoding(2 * torch.pi * points[..., axis], width // 2, 10000.0) for axis in (1, 0)
    )
    position_scale = aligner.position_scale(content).sigmoid().view(2, queries, heads, width)
    sine = torch.cat((y, x_sine), dim=-1)
    torch.testing.assert_close(found.position, sine * position_scale, rtol=0, atol=1e-10)
    if gaussian:
        sharpness = x[:, 2 * heads :].view(2, queries, heads, 2)
        torch.testing.assert_close(found.sharpness, sharpness, rtol=0, atol=1e-10)
    else:
        assert found.sharpness is None


def test_pooled_and_sampled_memory_are_the_same(monkeypatch):
    aligner = SemanticsAligner(16, 4, 10000.0, gaussian=True).double()
    boxes, memory = torch.rand(1, 5, 4, dtype=torch.float64), torch.randn(1, 20, 16).double()
    arguments = (torch.randn(1, 5, 16).double(), boxes, memory, (4, 5), torch.tensor([[5.0, 4.0]]))
    results = []
    for before in (True, False):
        monkeypatch.setattr(
            "sap_detr.projects.sam_detr.aligner.without_pooling", lambda *_, x=before: x
        )
        found = aligner(*arguments)
        results.append(torch.cat([x.flatten() for x in vars(found).values() if torch.is_tensor(x)]))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


def test_only_small_maps_are_sampled_without_pooling():
    assert without_pooling(850, 300, 256)
    assert not without_pooling(8000, 300, 256)


@pytest.mark.parametrize("gaussian", [False, True])
def test_gradient_reaches_the_reference_boxes_as_published(gaussian):
    """Through the first box, and through the first Gaussian; nothing else."""
    decoder = make_decoder(gaussian=gaussian)
    randomised(decoder)
    predictions = decoder(make_memory())
    wanted = decoder.reference_boxes
    (of_box,) = torch.autograd.grad(predictions.boxes[0].sum(), wanted, retain_graph=True)
    assert of_box.abs().sum() > 0
    (of_logits,) = torch.autograd.grad(
        predictions.logits.sum(), wanted, allow_unused=True, retain_graph=True
    )
    assert (of_logits is not None and bool(of_logits.abs().sum() > 0)) == gaussian
    # The second box depends on the first only where the content does.
    (of_second,) = torch.autograd.grad(predictions.boxes[1].sum(), wanted, allow_unused=True)
    assert (of_second is not None and bool(of_second.abs().sum() > 0)) == gaussian


def test_reference_boxes_add_up_unclipped_logits():
    """Far from 0 they differ from the boxes, whose logits are clipped."""
    decoder = make_decoder(num_queries=2, layer_levels=[0, 0, 0])
    with torch.no_grad():
        decoder.reference_boxes.fill_(20.0)
        for head in decoder.box_heads:
            head.layers[-1].bias.fill_(-3.0)
    seen = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    predictions = decoder(make_memory())
    logits = torch.tensor([20.0, 17.0, 14.0], dtype=torch.float64)
    for boxes, logit in zip(seen, logits, strict=True):
        torch.testing.assert_close(boxes, torch.full_like(boxes, 1).mul(logit.sigmoid()))
    clipped = torch.log(torch.tensor(1 / 1e-5, dtype=torch.float64))
    first = torch.sigmoid(torch.logit(torch.tensor(1 - 1e-5, dtype=torch.float64)) - 3)
    assert clipped < 20
    assert (predictions.boxes[0] - first).abs().max() < 1e-4
    assert not [x for x in seen[1:] if x.requires_grad]


def test_layers_read_the_levels_that_are_named():
    decoder = make_decoder(layer_levels=[2, 0])
    sizes = ((6, 8), (3, 4), (2, 2))
    memory = make_memory(sizes)
    assert [layer.size for layer in decoder.project_memory(memory)] == [(2, 2), (6, 8)]
    before = decoder(memory).logits
    for level, changes in ((2, [True, True]), (0, [False, True])):
        other = [*memory]
        other[level] = replace(memory[level], features=memory[level].features + 1)
        after = decoder(other).logits
        assert [not torch.equal(x, y) for x, y in zip(after, before, strict=True)] == changes
    changed = [memory[0], make_memory(sizes)[1], memory[2]]
    assert torch.equal(decoder(changed).logits, before)
    with pytest.raises(ValueError, match="needs 3 feature levels, got 2"):
        decoder(memory[:2])
    with pytest.raises(ValueError, match="layer_levels"):
        make_decoder(layer_levels=[])


def test_last_layer_alone_is_the_last_of_all():
    decoder = make_decoder(gaussian=True)
    memory = make_memory()
    everything, last = decoder(memory), decoder(memory, all_layers=False)
    assert last.logits.shape[0] == last.boxes.shape[0] == 1
    assert torch.equal(last.logits[0], everything.logits[-1])
    assert torch.equal(last.boxes[0], everything.boxes[-1])


def test_gaussian_forms_agree():
    memory = make_memory()
    decoders = [make_decoder(gaussian=True, gaussian_form=form) for form in ("bias", "folded")]
    decoders[1].load_state_dict(decoders[0].state_dict())
    first, second = (decoder(memory) for decoder in decoders)
    torch.testing.assert_close(first.boxes, second.boxes, rtol=0, atol=1e-10)
    torch.testing.assert_close(first.logits, second.logits, rtol=0, atol=1e-10)
    plain = make_decoder()
    state = decoders[0].state_dict()
    for name in list(state):
        if "point_mlp.3" in name:
            state[name] = state[name][: 2 * 4]
    plain.load_state_dict(state)
    assert (plain(memory).logits - first.logits).abs().max() > 1e-3


def test_initialisation():
    decoder = SamDetrDecoder(5, gaussian=True)
    for heads in (decoder.class_heads, decoder.box_heads):
        for head in heads:
            for mine, others in zip(head.parameters(), heads[0].parameters(), strict=True):
                assert torch.equal(mine, others)
    assert torch.allclose(decoder.class_heads[0].bias.sigmoid(), torch.tensor(0.01))
    assert not decoder.box_heads[0].layers[-1].weight.any()
    assert not decoder.box_heads[0].layers[-1].bias.any()
    assert 0.9 < decoder.reference_boxes.std() < 1.1
    first, second = decoder.layers[0], decoder.layers[1]
    for layer in (first, second):
        # The zeros that the published constructor sets do not survive.
        last = layer.aligner.point_mlp[-1]
        limit = (6 / (512 + 32)) ** 0.5
        assert 0.9 < last.weight.abs().max() / limit <= 1
        assert not last.bias.any()
        limit = (6 / (64 + 256)) ** 0.5
        assert 0.9 < layer.aligner.point_conv.weight.abs().max() / limit <= 1
        assert not layer.self_attn.out_proj.bias.any()
        assert not layer.cross_attn.out_proj.bias.any()
    assert torch.equal(first.aligner.content_scale.bias, second.aligner.content_scale.bias)
    assert not torch.equal(first.aligner.content_scale.weight, second.aligner.content_scale.weight)


def expected_parameters(name: str) -> tuple[int, int]:
    """In all and trained, with 91 classes."""
    if "_ms_" in name:
        total, trained = 55_194_698, 54_972_298
    elif name.endswith("_12ep.py"):
        total, trained = 58_296_458, 58_074_058
    else:
        total, trained = 58_295_946, 58_073_546
    smca = 49_248 if "_smca_" in name else 0
    return total + smca, trained + smca


def test_there_are_twelve_recipes():
    assert len(RECIPES) == 12


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_published_one(name, tmp_path):
    cfg = model_zoo.get_config(name)
    cfg.model.num_classes = 91
    with torch.device("meta"):
        parameters = list(instantiate(cfg.model).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert (sum(p.numel() for p in parameters), trained) == expected_parameters(name)
    epochs = int(name.split("_")[-1].removesuffix("ep.py"))
    iterations = 118287 // cfg.dataloader.train.total_batch_size
    assert cfg.train.max_iter == epochs * iterations
    assert cfg.train.checkpointer.period == cfg.train.eval_period == iterations
    assert list(cfg.lr_multiplier.scheduler.milestones) == [{12: 10, 50: 40}[epochs]]
    assert cfg.lr_multiplier.scheduler.num_updates == epochs
    assert cfg.lr_multiplier.warmup_length == 0
    assert cfg.dataloader.train.total_batch_size == (8 if "_dc5_" in name else 16)
    assert cfg.model.backbone.dc5 == ("_dc5_" in name)
    assert cfg.model.postprocessor.num_detections == 100
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (1e-4, 1e-4)
    assert cfg.train.clip_grad_norm == 0.1
    assert cfg.train.activation_checkpointing == ("_ms_" in name)
    assert cfg.train.output_dir == "output/" + name.removeprefix("sam_detr/").removesuffix(".py")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    LazyConfig.save(cfg, str(first))
    LazyConfig.save(LazyConfig.load(str(first)), str(second))
    assert first.read_text() == second.read_text()


@pytest.mark.parametrize("case_name", ["sam_detr_r50_smca_e50", "sam_detr_r50_ms_smca"])
def test_names_and_their_doubles_round_trip(case_name):
    case = golden_cases.load(case_name)
    published = {name: torch.zeros(()) for name in case["parameters"]}
    published.update({alias: published[name] for alias, name in case["aliases"].items()})
    assert len(case["aliases"]) == 36
    ours = SAM_DETR.to_ours(published)
    name = "sam_detr_ms_r50_smca_12ep" if "ms" in case_name else "sam_detr_r50_smca_50ep"
    cfg = model_zoo.get_config(f"sam_detr/{name}.py").model
    cfg.num_classes = 91
    with torch.device("meta"):
        assert ours.keys() == instantiate(cfg).state_dict().keys()
    assert SAM_DETR.to_published(ours).keys() == published.keys()
    assert len(SAM_DETR.class_row_names(ours)) == 12


def test_project_is_found_without_being_named():
    assert load_projects()["sam_detr"].SAM_DETR is SAM_DETR


@pytest.mark.parametrize("name", ["sam_detr_small", "sam_detr_ms_small"])
def test_small_models_train_and_detect(name):
    model = build_small(f"sam_detr/common/{name}.py")
    inputs = inputs_of((64, 64), (48, 56))
    # An image without objects.
    inputs[1]["instances"] = inputs[1]["instances"][:0]
    losses = model(inputs)
    assert {key.rstrip("_01") for key in losses} == {"loss_class", "loss_bbox", "loss_giou"}
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    found = model.eval()(inputs)
    assert [len(x["instances"]) for x in found] == [32, 32]


def test_bfloat16_autocast_is_close(small_model):
    model = small_model.eval()
    images = model.preprocess(inputs_of((64, 64), (48, 56)))
    with torch.no_grad():
        full = model.predict(images.tensor, images.image_sizes)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.predict(images.tensor, images.image_sizes)
    assert half.boxes.dtype == half.logits.dtype == torch.float32
    assert (half.boxes - full.boxes).abs().max() < 5e-2


@pytest.mark.parametrize("name", ["sam_detr_small", "sam_detr_ms_small"])
def test_compiled_model_predicts_the_same(name):
    model = build_small(f"sam_detr/common/{name}.py").eval()
    randomised(model.decoder)
    images = model.preprocess(inputs_of((64, 64), (48, 56)))
    arguments = (images.tensor, images.image_sizes)
    compiled = torch.compile(model.predict, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        ours, expected = compiled(*arguments), model.predict(*arguments)
    assert (ours.boxes - expected.boxes).abs().max() < 1e-5
    assert (ours.logits - expected.logits).abs().max() < 1e-4
