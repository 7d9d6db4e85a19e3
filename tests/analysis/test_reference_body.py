from __future__ import annotations

import pytest
import torch

from sap_detr.analysis import count_flops, count_parameters
from sap_detr.analysis.reference_body import ReferenceBody


@pytest.fixture(scope="module")
def body() -> ReferenceBody:
    return ReferenceBody()


def test_is_the_body_of_resnet50(body):
    # torchvision's ResNet-50 less its classifier and the weights and biases of its norms.
    parameters = count_parameters(body)
    assert parameters.total == 25_557_032 - 2_049_000 - 53_120
    frozen = 3 * 64 * 49 + 64 * 64 * (1 + 9 + 4 + 4) + 2 * 64 * 64 * (4 + 9 + 4)
    assert parameters.total - parameters.trained == frozen
    image = torch.zeros(1, 3, 64, 96)
    assert body(image).shape == (1, 2048, 2, 3)
    # 4.089 G at 224x224, of which 2 M are the classifier's.
    macs = count_flops(body, lambda: body(torch.zeros(1, 3, 224, 224))).total
    assert macs / 1e9 == pytest.approx(4.087, abs=0.001)


def test_passes(body):
    image = torch.rand(1, 3, 64, 64)
    body.infer(image)
    assert all(p.grad is None for p in body.parameters())
    body.train_step(image)
    gradients = [p.grad for p in body.parameters() if p.requires_grad]
    assert all(g is not None for g in gradients)
    first = gradients[-1].clone()
    # Gradients are not added up.
    body.train_step(image)
    assert torch.allclose(gradients[-1], first)
    assert torch.allclose(next(p.grad for p in reversed(list(body.parameters()))), first)
