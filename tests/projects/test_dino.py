"""DINO beyond its golden cases: every kind of batch, and what is around the network."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys

import pytest
import torch
from detectron2.config import instantiate
from tiny_models import (
    SIZES,
    keep_content,
    largest_difference,
    make_batch,
    make_model,
    noise,
    predict,
    tensors,
)
from torch.nn import functional as F

from sap_detr import model_zoo
from sap_detr.analysis import build_without_weights, count_published_flops
from sap_detr.checkpoint import NAME_MAPS, CheckpointError, load_checkpoint_file
from sap_detr.checkpoint.name_map import detect_format
from sap_detr.engine.main import main
from sap_detr.layers import DeformableAttention, linear_side_by_side
from sap_detr.modeling import BoxReference, ContrastiveDenoiser, Targets

METHODS = ["dino", "sap_dino"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_objects", [(2, 0, 4), (0, 0, 0), (30, 1, 0), (1, 1, 1)])
def test_every_trained_parameter_gets_a_gradient(method, num_objects):
    """Also without objects, or with more than queries: what DistributedDataParallel asks for."""
    model = make_model(method)
    losses = model(make_batch(num_objects))
    assert len(losses) == 3 * (3 + 3 + 1)
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    without = [losses[f"loss_dn_{name}"] for name in ("class", "bbox", "giou")]
    assert (sum(without) == 0) == (not any(num_objects))


@pytest.mark.parametrize("method", METHODS)
def test_inference_computes_the_last_layer_only(method):
    model, batch = make_model(method).eval(), make_batch()
    last = predict(model, batch, all_layers=False)
    full = predict(model, batch)
    assert len(last.boxes) == 1
    assert last.proposals is None
    assert full.proposals.boxes.shape == (1, 3, 20, 4)
    assert largest_difference(last, full.last_layer) < 1e-12
    assert [len(x["instances"]) for x in model(batch)] == [100, 100, 100]


@pytest.mark.parametrize("method", METHODS)
def test_compiled_model_predicts_the_same(method):
    model, batch = make_model(method).eval(), make_batch()
    images = model.preprocess(batch)
    expected = predict(model, batch, all_layers=False)
    model.compile_network(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        found = model.predict(images.tensor, images.image_sizes, all_layers=False)
    assert largest_difference(found, expected) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [SIZES, SIZES[:1] * 3], ids=["padded", "full"])
def test_bfloat16_autocast_is_close(method, sizes):
    model, batch = make_model(method).float().eval(), make_batch(sizes=sizes)
    # Other numbers select other tokens, so these are the same ones.
    model.decoder.num_queries = sum(h * w for h, w in [(12, 20), (6, 10), (3, 5), (2, 3)])
    model.decoder.content_embed = None
    full = predict(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = predict(model, batch)
    found = tensors(half)
    assert {x.dtype for x in found.values()} == {torch.float32}
    order = [x.proposals.tokens.argsort(1)[None, :, :, None] for x in (half, full)]
    boxes = [
        x.boxes.gather(2, at.expand_as(x.boxes)) for x, at in zip((half, full), order, strict=True)
    ]
    assert (boxes[0] - boxes[1]).abs().median() < 1e-2
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(batch)
    assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_waits_for_the_device(method):
    """Tensors of the meta device have no values, so reading one on the host fails."""
    model = make_model(method).to("meta").eval()
    for sizes in (SIZES, SIZES[:1] * 3):
        images = torch.zeros(3, 3, 96, 160, dtype=torch.float64, device="meta")
        assert model.predict(images, sizes).boxes.shape == (3, 3, 20, 4)


def test_too_few_tokens_are_an_error_that_says_what_to_do():
    model = make_model("dino", num_queries=1000)
    with pytest.raises(ValueError, match=r"321 cells on all levels, fewer .* num_queries=1000"):
        model(make_batch())


def test_locations_in_boxes_are_the_published_ones():
    """Offsets over the number of points, times half the box; to the last bit."""
    attention = DeformableAttention(16, 2, 2, 4).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    query = torch.randn(1, 3, 16, dtype=torch.float64)
    reference = BoxReference(torch.rand(1, 3, 4, dtype=torch.float64))
    extents = torch.tensor([[[6.0, 5.0], [3.0, 3.0]]], dtype=torch.float64)
    locations, _ = attention.samples(
        query,
        reference.points[:, :, None] * extents[:, None],
        reference.sides[:, :, None] * torch.cat((extents, extents), -1)[:, None],
    )
    both = (attention.sampling_offsets, attention.attention_weights)
    offsets = linear_side_by_side(query, both)[0].view(1, 3, 2, 2, 4, 2)
    scaled = reference.boxes[:, :, None] * torch.cat((extents, extents), -1)[:, None]
    centre, size = scaled[:, :, None, :, None].split(2, dim=-1)
    assert torch.equal(locations, centre + offsets / 4 * size * 0.5)


def test_side_directed_or_not_is_the_same_for_boxes():
    batch = make_batch()
    found = [predict(make_model("dino", side_directed=x).eval(), batch) for x in (True, False)]
    assert largest_difference(*found) == 0


@pytest.mark.parametrize(
    ("number", "counts", "groups"),
    [(100, (5, 3), 20), (100, (200, 1), 1), (100, (0, 0), 0), (49, (5, 3), 98), (0, (2,), 0)],
)
def test_groups_of_denoising_queries(number, counts, groups):
    most = max(counts)
    targets = Targets(
        torch.rand(len(counts), most, 4), torch.zeros(len(counts), most, dtype=torch.long), counts
    )
    queries = ContrastiveDenoiser(number)(targets, 7)
    assert queries.groups == groups
    assert queries.labels.shape == (len(counts), 2 * most * groups)
    assert queries.matches.counts == tuple(n * groups for n in counts)


def test_noise_is_as_large_as_it_should_be():
    """Corners move by up to half a box for positives and by half to a whole one for negatives."""
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.1], [0.4, 0.6, 0.1, 0.3]]], dtype=torch.float64)
    targets = Targets(boxes, torch.tensor([[2, 4]]), (2,))
    torch.manual_seed(0)
    queries = ContrastiveDenoiser(4000, label_noise=0.5, box_noise=0.4)(targets, 10)
    slots = queries.boxes.view(queries.groups, 2, 2, 4)

    def corners(x):
        return torch.cat((x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2), dim=-1)

    half = torch.cat((boxes[..., 2:], boxes[..., 2:]), dim=-1)[0] / 2
    moved = (corners(slots) - corners(boxes[0])).abs() / half / 0.4
    assert 0.99 < moved[:, 0].max() <= 1 + 1e-9
    assert 1 - 1e-9 <= moved[:, 1].min() < 1.01
    assert 1.99 < moved[:, 1].max() <= 2 + 1e-9
    replaced = (queries.labels.view(-1, 2, 2) != torch.tensor([2, 4])).double().mean()
    # A quarter is drawn anew, of which a tenth gets its own class again.
    assert abs(replaced - 0.225) < 0.02
    found = queries.matches
    assert torch.equal(
        targets.labels[0, found.target[0]].view(-1, 2), targets.labels.expand(2000, 2)
    )
    is_positive = torch.zeros(queries.labels.shape[1], dtype=torch.bool)
    is_positive[found.query[0]] = True
    assert torch.equal(is_positive.view(-1, 2, 2)[:, 0], torch.ones(2000, 2, dtype=torch.bool))


def test_attention_mask_of_denoising():
    model, batch = make_model("dino"), make_batch((1, 0, 2))
    queries = noise(model, batch)
    slots = queries.labels.shape[1]
    allowed = queries.allowed(20, mask_empty=False)[0, 0]
    for i in range(0, slots, 7):
        group = slice(i // 4 * 4, i // 4 * 4 + 4)
        expected = torch.zeros(slots + 20, dtype=torch.bool)
        expected[group] = True
        expected[slots:] = True
        assert torch.equal(allowed[i], expected)
    assert not allowed[slots:, :slots].any()
    assert allowed[slots:, slots:].all()
    masked = queries.allowed(20, mask_empty=True)
    assert masked.shape[0] == 3
    assert torch.equal(masked[:, 0].any(1)[:, :slots], torch.ones(3, slots, dtype=torch.bool))
    assert not masked[1, 0, slots:, :slots].any()


@pytest.mark.parametrize("look_forward_twice", [True, False])
def test_looking_forward_twice_changes_gradients_only(look_forward_twice):
    batch = make_batch()
    model = make_model("dino", look_forward_twice=look_forward_twice)
    content = []
    keep_content(model.decoder.layers[0], content)
    predictions = predict(model, batch)
    predictions.boxes[1].sum().backward()
    through_box = content[0].grad.clone()
    other = make_model("dino", look_forward_twice=not look_forward_twice)
    assert largest_difference(predict(other, batch), predictions) == 0
    # The content of layer 1 reads layer 0's content in either case; the box only if it looks twice.
    content.clear()
    model.decoder.layers[0]._forward_hooks.clear()
    keep_content(other.decoder.layers[0], content)
    predict(other, batch).boxes[1].sum().backward()
    assert (content[0].grad - through_box).abs().max() > 1e-6


def test_boxes_have_no_gradient_to_the_first_stage():
    model = make_model("dino")
    predict(model, make_batch()).boxes.sum().backward()
    for head in (model.decoder.proposal_box_head, model.decoder.proposal_class_head):
        assert all(p.grad is None for p in head.parameters())


def test_converting_there_and_back():
    cfg = model_zoo.get_config("dino/dino_r50_4scale_12ep.py").model
    cfg.num_classes = 91
    with torch.device("meta"):
        model = instantiate(cfg)
    assert sum(p.numel() for p in model.parameters()) == 46_893_182
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 46_670_782
    names = NAME_MAPS["dino"]
    state = model.state_dict()
    published = names.to_published(state)
    assert detect_format(published) == "dino"
    assert published["label_enc.weight"].shape == (92, 256)
    shared = [name for name in published if name.endswith("bbox_embed.5.layers.2.weight")]
    assert len(shared) == 2
    assert names.to_ours(published).keys() == state.keys()


def test_multiply_adds_are_the_published_ones():
    model, _ = build_without_weights("dino/dino_r50_4scale_12ep.py", num_classes=91)
    executed, published = count_published_flops(model, (800, 1280))
    assert published.total / 1e9 == pytest.approx(279.9, abs=0.05)
    # No box head on tokens that are not selected; sums of rows in place of sampling.
    assert executed.total / 1e9 == pytest.approx(275.05, abs=0.01)


def test_detrex_checkpoints_are_refused_by_name():
    names = ["transformer.decoder.class_embed.6.weight", "neck.convs.0.conv.weight"]
    with pytest.raises(CheckpointError, match=r"detrex.*seven pairs of heads"):
        detect_format(dict.fromkeys(names))


def test_five_scales_have_their_shapes():
    cfg = model_zoo.get_config("dino/dino_r50_5scale_12ep.py").model
    with torch.device("meta"):
        model = instantiate(cfg).eval()
    images = torch.zeros(1, 3, 256, 320, device="meta")
    maps = model.neck(model.backbone(images), None, (256, 320))
    assert [tuple(x.features.shape[-2:]) for x in maps] == [
        (64, 80), (32, 40), (16, 20), (8, 10), (4, 5)
    ]  # fmt: skip
    assert model.predict(images, [(256, 320)]).boxes.shape == (6, 1, 900, 4)


def test_the_extra_level_reads_the_last_feature():
    model = make_model("dino").eval()
    features = {
        f"res{i}": torch.randn(1, 2**i * 2, 96 // 2**i, 64 // 2**i).double() for i in (3, 4, 5)
    }
    maps = model.neck(features, None, (96, 64))
    conv, norm = model.neck.projections[3], model.neck.norms[3]
    expected = norm(F.conv2d(features["res5"], conv.weight, conv.bias, stride=2, padding=1))
    assert torch.equal(maps[3].features, expected)


def test_training_goes_on_bit_exactly():
    """The noise comes from torch's default generator, whose state checkpoints keep."""
    batch = make_batch()

    def steps(model, number):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(number):
            optimizer.zero_grad()
            sum(model(batch).values()).backward()
            optimizer.step()
        return model

    torch.manual_seed(7)
    straight = steps(make_model("dino"), 3)
    torch.manual_seed(7)
    first = steps(make_model("dino"), 1)
    state, weights = torch.get_rng_state(), copy.deepcopy(first.state_dict())
    torch.manual_seed(99)
    resumed = make_model("dino")
    resumed.load_state_dict(weights)
    torch.set_rng_state(state)
    steps(resumed, 2)
    expected = straight.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in resumed.state_dict().items())


TINY_RUN = [
    "dataset.name=tiny_shapes_dino",
    "dataset.num_train=12",
    "dataset.num_val=3",
    "dataset.image_size=[64,64]",
    "dataloader.train.total_batch_size=4",
    "model.backbone.width=8",
    "model.neck.in_channels=[16,32,64]",
    "model.neck.embed_dim=32",
    "model.encoder.num_layers=1",
    "model.encoder.ffn_dim=32",
    "model.decoder.num_queries=8",
    "model.decoder.num_layers=2",
    "model.decoder.ffn_dim=32",
    "train.ema.enabled=false",
    "train.eval_period=0",
    "train.max_iter=4",
    "train.checkpointer.period=2",
    "train.device=cpu",
]

TRAIN_WITHOUT_OBJECTS_ON_ONE_RANK = """
import sys
import torch
from detectron2.engine import launch
from detectron2.utils import comm
from sap_detr.config import load_config
from sap_detr.engine import DetectionTrainer, prepare_data, setup_run

def worker(folder, name, overrides):
    torch.set_num_threads(1)
    cfg = load_config(name, overrides)
    prepare_data(cfg)
    setup_run(cfg)
    trainer = DetectionTrainer(cfg)
    data = trainer._trainer.data_loader.dataset
    mapped = data.mapper
    if comm.get_rank() == 0:
        data.mapper = lambda record: mapped({**record, "annotations": []})
    trainer.resume_or_load(resume=False)
    trainer.train()
    weights = trainer._trainer.model.module.state_dict()
    torch.save(weights, f"{folder}/{comm.get_rank()}.pth")

if __name__ == "__main__":
    launch(worker, 2, dist_url="auto", args=(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dino", "sap_dino_detr", "sap_group_detr"])
def test_two_processes_with_different_numbers_of_objects(method, shapes_folder, tmp_path):
    """One of them has none at all, so no denoising queries either."""
    if method == "sap_group_detr":
        # SAP-DETR has one level.
        changes = {"model.neck.in_channels": "[16]", "model.decoder.grid_size": "[2,3]"}
    else:
        changes = {}
    kept = [x for x in TINY_RUN if "num_queries" not in x or method != "sap_group_detr"]
    overrides = [x for x in kept if x.partition("=")[0] not in changes]
    overrides += [f"{key}={value}" for key, value in changes.items()]
    script = tmp_path / "script.py"
    script.write_text(TRAIN_WITHOUT_OBJECTS_ON_ONE_RANK)
    command = [sys.executable, str(script), str(tmp_path), f"{method}/{method}_small_shapes.py"]
    command += [
        *overrides,
        f"dataset.folder={shapes_folder}/dino",
        f"train.output_dir={tmp_path}/o",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    trained = [name for name in first if "running_" not in name and "num_batches" not in name]
    assert len(trained) > 50
    assert all(torch.equal(first[name], second[name]) for name in trained)


@pytest.mark.parametrize("method", ["dino", "sap_dino_detr"])
def test_a_run_goes_on_bit_exactly(method, shapes_folder, tmp_path):
    """From its second iteration, with denoising on."""
    config = ["--config-file", f"{method}/{method}_small_shapes.py"]
    overrides = [*TINY_RUN, f"dataset.folder={shapes_folder}/dino"]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main([*config, *overrides, f"train.output_dir={straight}"]) == 0
    resumed.mkdir()
    shutil.copy(straight / "model_0000001.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    assert main([*config, "--resume", *overrides, f"train.output_dir={resumed}"]) == 0
    expected, found = (
        load_checkpoint_file(folder / "model_final.pth")["model"] for folder in (straight, resumed)
    )
    first = load_checkpoint_file(straight / "model_0000001.pth")["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(x, expected[name]) for name, x in found.items())
    assert not torch.equal(first["decoder.norm.weight"], found["decoder.norm.weight"])
