import pytest
import torch
from detectron2.config import instantiate

from sap_detr import model_zoo
from sap_detr.modeling import checkpoint_activations

CONFIGS = [
    "common/models/detr_small.py",
    "common/models/sap_detr_small.py",
    "sam_detr/common/sam_detr_small.py",
    "sam_detr/common/sam_detr_ms_small.py",
]


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = model_zoo.get_config(name).model
    cfg.num_classes = 3
    # So that a second pass with other random numbers would be seen.
    cfg.encoder.dropout = cfg.decoder.dropout = 0.2
    return instantiate(cfg).train()


def train_once(model: torch.nn.Module, inputs: list[dict]) -> tuple[dict, dict, int]:
    """Losses, gradients, and the number of bytes that are kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model(inputs)
    size = sum(kept.values())
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, size


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_gradients_with_less_memory(name, make_inputs):
    plain, recomputed = build(name), build(name)
    checkpoint_activations(recomputed)
    assert plain.state_dict().keys() == recomputed.state_dict().keys()
    inputs = make_inputs([(64, 64), (48, 56)], (2, 1))
    losses, gradients, size = train_once(plain, inputs)
    again, gradients_again, less = train_once(recomputed, inputs)
    assert {k: x.item() for k, x in again.items()} == {k: x.item() for k, x in losses.items()}
    assert gradients.keys() == gradients_again.keys()
    for parameter, gradient in gradients.items():
        assert torch.equal(gradients_again[parameter], gradient), parameter
    assert less < 0.8 * size


def test_inference_is_left_alone(make_inputs):
    model = build(CONFIGS[0]).eval()
    expected = model(make_inputs([(64, 64)], (1,)))[0]["instances"]
    checkpoint_activations(model)
    found = model(make_inputs([(64, 64)], (1,)))[0]["instances"]
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
