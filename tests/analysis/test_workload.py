from __future__ import annotations

import pytest
import torch

from sap_detr.analysis import BenchmarkModel, Workload
from sap_detr.analysis.workload import synthetic_batch
from sap_detr.config import ConfigError
from sap_detr.data.shapes import generate_shapes

SMALL = "common/models/sap_detr_small.py"


def test_synthetic_batch():
    first, second = synthetic_batch(2, (60, 80), num_classes=3, num_objects=7)
    assert first["image"].shape == (3, 60, 80)
    assert first["image"].dtype == torch.uint8
    assert not torch.equal(first["image"], second["image"])
    instances = first["instances"]
    assert instances.image_size == (60, 80)
    boxes = instances.gt_boxes.tensor
    assert boxes.shape == (7, 4)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([80, 60])).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 0.099 * torch.tensor([80, 60])).all()
    assert set(instances.gt_classes.tolist()) <= {0, 1, 2}
    again, _ = synthetic_batch(2, (60, 80), num_classes=3, num_objects=7)
    assert torch.equal(again["image"], first["image"])


def test_parts_of_inference_and_step():
    benchmark = BenchmarkModel(Workload(SMALL, num_classes=3, size=(64, 64)))
    split = benchmark.timed("inference", benchmark.run("inference"))()
    names = {"other", "backbone", "neck", "encoder", "decoder", "postprocessor"}
    assert split.keys() == names
    step = benchmark.timed("training", benchmark.run("training"))
    before = [p.detach().clone() for p in benchmark.model.parameters()]
    split = step()
    assert split.keys() == {"data", "forward", "matching", "losses", "backward", "optimizer"}
    assert all(seconds > 0 for seconds in split.values())
    changed = [
        not torch.equal(old, new)
        for old, new in zip(before, benchmark.model.parameters(), strict=True)
    ]
    assert any(changed)


def test_recipe_of_the_config(tiny_overrides):
    overrides = (*tiny_overrides, "optimizer.lr=0.125", "train.clip_grad_norm=7.5")
    benchmark = BenchmarkModel(Workload("detr/detr_small_shapes.py", overrides, 3, (64, 64)))
    trainer = benchmark.trainer()
    assert trainer.max_grad_norm == 7.5
    assert trainer.optimizer.param_groups[0]["lr"] == 0.125
    assert trainer.amp_dtype is None
    # A model without a recipe has the common one.
    trainer = BenchmarkModel(Workload(SMALL, num_classes=3, dtype="bfloat16")).trainer()
    assert trainer.max_grad_norm == 0.1
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [1e-4, 1e-5]
    assert trainer.amp_dtype is torch.bfloat16


def test_precision():
    seen = []

    def look(module, args, features) -> None:
        seen.extend(x.dtype for x in features.values())

    for dtype in ("float32", "bfloat16"):
        benchmark = BenchmarkModel(Workload(SMALL, num_classes=3, size=(64, 64), dtype=dtype))
        benchmark.model.backbone.register_forward_hook(look)
        benchmark.infer(benchmark.images(1))
    assert seen == [torch.float32, torch.bfloat16]


def test_images_of_a_folder(tmp_path, tiny_overrides):
    generate_shapes(tmp_path / "my_shapes", num_train=4, num_val=2, image_size=(64, 64))
    overrides = tuple(o for o in tiny_overrides if "dataset." not in o)
    workload = Workload(
        "detr/detr_small_custom.py", overrides, size=(64, 64), data=str(tmp_path / "my_shapes")
    )
    benchmark = BenchmarkModel(workload)
    assert workload.images == "my_shapes"
    step = benchmark.timed("training", benchmark.trainer().run_step)
    for _ in range(2):
        assert step()["data"] > 0
    with pytest.raises(ConfigError, match="classes"):
        BenchmarkModel(Workload(SMALL, num_classes=1, data=str(tmp_path / "my_shapes")))
    with pytest.raises(ConfigError, match="no dataloader"):
        BenchmarkModel(Workload(SMALL, data=str(tmp_path / "my_shapes")))


def test_compiled_network_is_timed_as_a_whole(tiny_overrides):
    # Inductor takes minutes.
    overrides = (*tiny_overrides, "train.compile.backend=eager")
    plain, compiled = (
        BenchmarkModel(
            Workload("detr/detr_small_shapes.py", overrides, 3, (64, 64), compiled=compiled)
        )
        for compiled in (False, True)
    )
    images = plain.images(1)

    def graphs():
        return torch._dynamo.utils.counters["stats"]["unique_graphs"]

    before = graphs()
    scores = [s.infer(images)[0]["instances"].scores for s in (plain, compiled)]
    assert torch.allclose(*scores)
    parts = compiled.timed("inference", lambda: compiled.infer(images))()
    assert parts.keys() == {"network", "postprocessor"}
    assert graphs() == before + 1


def test_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="sees no GPU"):
        BenchmarkModel(Workload(SMALL, num_classes=3, device="cuda"))
