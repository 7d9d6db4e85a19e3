"""Backbones by their names in other libraries: trained, padded, frozen, filled, saved, resumed."""

from __future__ import annotations

import pytest
import torch
import torchvision
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.utils.file_io import PathManager
from small_detectors import CONFIGS
from tiny_models import make_batch

from sap_detr import cli, model_zoo
from sap_detr.analysis import count_detector_flops
from sap_detr.checkpoint import CheckpointError, load_weights, save_checkpoint_file
from sap_detr.config import load_config
from sap_detr.detector import Detector
from sap_detr.engine import get_parameter_groups
from sap_detr.export import Deployable, ExportError, trace
from sap_detr.modeling import TimmBackbone, TorchvisionBackbone, build_small_resnet

timm = pytest.importorskip("timm")

# Sizes that are multiples of no stride.
SIZES = [(70, 101), (97, 65)]


def build_fpn(strides=(8, 16, 32)):
    names = {8: "res3", 16: "res4", 32: "res5"}
    body = build_small_resnet(8, out_features=[names[s] for s in strides], norm="FrozenBN")
    return FPN(body, [names[s] for s in strides], 16)


FAMILIES = {
    "convnext": LazyCall(TimmBackbone)(name="test_convnext"),
    "efficientnet": LazyCall(TimmBackbone)(name="test_efficientnet"),
    "swin": LazyCall(TorchvisionBackbone)(name="swin_t"),
    "vit": LazyCall(TimmBackbone)(name="test_vit"),
    "torchvision": LazyCall(TorchvisionBackbone)(name="mobilenet_v2"),
    "fpn": LazyCall(build_fpn)(strides=[32]),
}


def build(family, config="detr/detr_small_shapes.py", invariant=True, **options):
    torch.manual_seed(0)
    cfg = load_config(config, ["model.num_classes=5"]).model
    cfg.backbone = FAMILIES[family].copy()
    cfg.backbone.update(options)
    cfg.neck.in_features = cfg.neck.in_channels = None
    cfg.padding_invariant = invariant
    return instantiate(cfg)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_train_and_detect_the_same_however_much_is_padded(family):
    model = build(family).train()
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    batch = make_batch((2, 1), SIZES)
    losses = model(batch)
    sum(losses[key] for key in losses if key.startswith("loss")).backward()
    trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained
    without = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert without == []
    model.eval()
    together = model.predict(*_inputs(model, batch))
    for index, one in enumerate(batch):
        alone = model.predict(*_inputs(model, [one]))
        assert (together.boxes[:, index] - alone.boxes[:, 0]).abs().max() < 1e-4
        assert (together.logits[:, index] - alone.logits[:, 0]).abs().max() < 1e-4


def _inputs(model, batch):
    images = model.preprocess(batch)
    return images.tensor, images.image_sizes


def test_channels_and_strides_are_found_out(family):
    backbone = build(family).backbone
    height, width = 2 * backbone.size_divisibility, 3 * backbone.size_divisibility
    features = backbone.eval()(torch.rand(1, 3, height, width))
    for name, shape in backbone.output_shape().items():
        expected = (1, shape.channels, height // shape.stride, width // shape.stride)
        assert features[name].shape == expected


def test_several_levels_for_deformable_encoders():
    model = build("convnext", CONFIGS["DINO"][0], strides=[8, 16, 32]).train()
    losses = model(make_batch((2, 1), SIZES))
    assert all(torch.isfinite(x) for x in losses.values())
    assert list(model.backbone.output_shape().values()) == [
        ShapeSpec(channels=model.neck.projections[i].in_channels, stride=8 * 2**i) for i in range(3)
    ]


def library_weights(family):
    """What the library itself would save."""
    torch.manual_seed(7)
    backbone = FAMILIES[family]
    if backbone._target_ is TimmBackbone:
        return timm.create_model(backbone.name).state_dict()
    return torchvision.models.get_model(backbone.name, weights=None).state_dict()


@pytest.mark.parametrize("family", [x for x in FAMILIES if x != "fpn"])
def test_a_file_of_the_library_fills_the_backbone(family, tmp_path):
    weights, model = library_weights(family), build(family)
    save_checkpoint_file(weights, tmp_path / "weights.pth")
    report = load_weights(model, tmp_path / "weights.pth")
    names = {n for n in model.state_dict() if n.startswith("backbone.")}
    assert {n for n in report.loaded if n.startswith("backbone.")} == names
    assert not any(n.startswith("backbone.") for n in report.missing)
    assert 0 < len(report.ignored) < 8  # the classifier, and counters of batch norms
    first = next(iter(model.backbone.body.named_parameters()))
    assert torch.equal(first[1], weights[first[0]])
    other = "vit" if family != "vit" else "convnext"
    with pytest.raises(CheckpointError):
        load_weights(model, library_weights(other))


@pytest.mark.parametrize("family", [x for x in FAMILIES if x != "fpn"])
def test_frozen_norms_leave_the_features_as_they_are(family):
    trained = build(family, frozen_norms=False).backbone.eval()
    frozen = build(family, frozen_norms=True).backbone.eval()
    for name, value in trained.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) + 0.5)
    frozen.load_state_dict(trained.state_dict(), strict=False)
    images = torch.rand(1, 3, *[2 * frozen.size_divisibility] * 2)
    for name, expected in trained(images).items():
        assert expected.std() > 0
        torch.testing.assert_close(frozen(images)[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 96), (160, 224)])
def test_padding_known_beforehand_is_that_of_tensorflow(size):
    backbone = TimmBackbone("tf_efficientnet_lite0", strides=[8, 16, 32], frozen_norms=False)
    as_in_timm = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    as_in_timm.load_state_dict(backbone.body.state_dict(), strict=False)
    images = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        features = backbone.double().eval()(images)
        expected = as_in_timm.double().eval().forward_intermediates(images, intermediates_only=True)
    assert not any(isinstance(m, timm.layers.Conv2dSame) for m in backbone.modules())
    for ours, theirs in zip(features.values(), expected[2:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_saved_and_loaded_again_it_detects_the_same(family, tmp_path):
    model = build(family).eval()
    save_checkpoint_file({"model": model.state_dict()}, tmp_path / "model.pth")
    torch.manual_seed(1)
    again = build(family)
    for parameter in again.parameters():
        parameter.data.normal_()
    load_weights(again, tmp_path / "model.pth").require_complete()
    batch = make_batch((1,), [(64, 64)])
    expected = model.predict(*_inputs(model, batch)).boxes
    assert torch.equal(again.eval().predict(*_inputs(again, batch)).boxes, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sap_detr_is_exported(family):
    """For any size; with windows, for one."""
    module = Deployable(build(family, "sap_detr/sap_detr_small_shapes.py", invariant=False).eval())
    size = None
    if family == "swin":
        with pytest.raises(ExportError, match=r"swin_t has windows.* --size HEIGHT,WIDTH"):
            trace(module)
        size = (97, 101)
    program = trace(module, size).module()
    for height, width in [size] if size else [(97, 101), (70, 130)]:
        images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        batch = [{"image": images[0]}, {"image": images[1, :, : height - 9, : width - 30]}]
        sizes = torch.tensor([x["image"].shape[1:] for x in batch])
        with torch.no_grad():
            boxes, scores, _ = program(images, sizes)
            expected = module.model(batch)
        for index, found in enumerate(expected):
            instances = found["instances"]
            assert (scores[index] - instances.scores).abs().max() < 1e-4
            assert (boxes[index] - instances.pred_boxes.tensor).abs().max() < 0.05


def test_flops_are_counted(family):
    counted = count_detector_flops(build(family).eval(), (64, 64))
    assert counted.by_part()["backbone"] > 1e5
    # A ViT resamples its position encodings.
    assert counted.uncounted.keys() <= {"aten._upsample_bicubic2d_aa"}


@pytest.mark.parametrize("family", ["convnext", "vit", "torchvision"])
def test_frozen_stages_are_not_trained(family):
    free, frozen = build(family).backbone, build(family, frozen_stages=2).backbone
    kept = {n for n, p in frozen.named_parameters() if not p.requires_grad}
    assert 0 < len(kept) < len(list(free.parameters()))
    assert max(frozen.parameter_depths()[n] for n in kept) < max(free.parameter_depths().values())
    with pytest.raises(ValueError, match="frozen_stages must be from 0 to"):
        build(family, frozen_stages=99)


@pytest.mark.parametrize("family", ["convnext", "vit", "torchvision"])
def test_deeper_layers_have_higher_rates(family):
    model = build(family)
    groups = get_parameter_groups(model, 1.0, backbone_factor=0.1, backbone_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(p.requires_grad for p in model.parameters())
    depths = model.backbone.parameter_depths()
    deepest = max(depths.values())
    for name, parameter in model.backbone.named_parameters():
        expected = 0.1 * 0.5 ** (deepest - depths[name])
        assert rates[id(parameter)] == pytest.approx(expected)
    assert rates[id(model.decoder.class_head.weight)] == 1.0
    resnet = instantiate(load_config("detr/detr_small_shapes.py").model)
    with pytest.raises(ValueError, match="backbone_decay"):
        get_parameter_groups(resnet, 1.0, backbone_decay=0.5)


@pytest.mark.parametrize(
    "backbone, message",
    [
        (LazyCall(TimmBackbone)(name="convnext_tiy"), "close names: .*convnext_tiny"),
        (LazyCall(TimmBackbone)(name="hf-hub:some/one"), "has no network"),
        (LazyCall(TimmBackbone)(name="test_convnext", strides=[8, 64]), "strides .*not of .64"),
        (LazyCall(TorchvisionBackbone)(name="swin_s1"), "close names"),
        (LazyCall(TorchvisionBackbone)(name="vit_b_16"), "take timm's"),
    ],
)
def test_mistakes_are_told(backbone, message):
    with pytest.raises(ValueError, match=message):
        backbone._target_(**{k: v for k, v in backbone.items() if k != "_target_"})


def test_a_neck_that_does_not_fit_is_told_before_anything_runs():
    cfg = load_config("detr/detr_small_shapes.py").model
    cfg.backbone = FAMILIES["convnext"]
    with pytest.raises(ValueError, match=r"in_features \['res3'\].*stride32.*null"):
        instantiate(cfg)


NAMED = {
    "convnext": "L(TimmBackbone)(name='test_convnext', strides=[16])",
    "vit": "L(TimmBackbone)(name='test_vit')",
    "torchvision": "L(TorchvisionBackbone)(name='mobilenet_v2')",
    "fpn": "L(FPN)(bottom_up=L(build_small_resnet)(width=8, out_features=['res4']),"
    " in_features=['res4'], out_channels=16)",
}


@pytest.mark.parametrize("family", NAMED)
def test_a_run_is_resumed_and_leaves_a_detector(family, tmp_path, tiny_overrides):
    config = tmp_path / "mine.py"
    config.write_text(
        "from detectron2.config import LazyCall as L\n"
        "from sap_detr import model_zoo\n"
        "from detectron2.modeling.backbone import FPN\n"
        "from sap_detr.modeling import TimmBackbone, TorchvisionBackbone, build_small_resnet\n"
        "globals().update(model_zoo.get_config('detr/detr_small_shapes.py'))\n"
        f"model.backbone = {NAMED[family]}\n"
        "model.neck.in_features = model.neck.in_channels = None\n"
    )
    gone = ("model.backbone.width", "model.neck.in_channels")
    changes = [x for x in tiny_overrides if not x.startswith(gone)]
    if family != "fpn":
        weights = tmp_path / "weights.pth"
        save_checkpoint_file(library_weights(family), weights)
        changes += [f"train.init_checkpoint={weights}", "+optimizer.params.backbone_decay=0.5"]
    train = ["train", "--config-file", str(config)]
    assert cli.main([*train, *changes, "train.max_iter=2"]) == 0
    assert cli.main([*train, "--resume", *changes, "train.max_iter=4"]) == 0
    run = tmp_path / "run"
    if family == "fpn":  # of Detectron2, so that a file can't describe it
        files = str(run / "config.yaml"), str(run / "model_final.pth")
        detector = Detector.from_config(*files, device="cpu")
    else:
        detector = Detector(run / "model_final.safetensors", "cpu")
    [found] = detector(torch.zeros(3, 50, 70), threshold=0)
    assert len(found) == 8
    kind = {"fpn": FPN, "torchvision": TorchvisionBackbone}.get(family, TimmBackbone)
    assert isinstance(detector.predictor.model.backbone, kind)


@pytest.mark.parametrize(
    "name, message",
    [
        ("convnext_tiny.fb_in1k", "not in timm's cache .*timm/convnext_tiny.fb_in1k elsewhere"),
        ("convnext_tiny.nonsense", "no weights called .*it has convnext_tiny"),
        ("nonsense", "no weights called 'nonsense'"),
    ],
)
def test_weights_of_timm_that_are_not_there_are_told_in_one_line(
    name, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=message):
        PathManager.get_local_path(f"timm://{name}")


RECIPES = [
    "sap_detr/sap_detr_convnext_t_50ep.py",
    "sap_detr/sap_detr_swin_t_50ep.py",
    "sap_detr/sap_detr_dinov2_s_50ep.py",
    "sam_detr/sam_detr_ms_swin_t_50ep.py",
    "dino/dino_swin_t_4scale_12ep.py",
    "dino/dino_lite0_custom.py",
    "sap_dino_detr/sap_dino_detr_lite0_custom.py",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_built_and_detect(recipe):
    model = instantiate(model_zoo.get_config(recipe).model).eval()
    [found] = model([{"image": torch.zeros(3, 300, 310), "height": 300, "width": 310}])
    assert len(found["instances"]) > 0
