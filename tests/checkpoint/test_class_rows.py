from __future__ import annotations

import pytest
import torch

from sap_detr.checkpoint import CheckpointError, coco_class_names
from sap_detr.checkpoint.class_rows import (
    COCO_CATEGORY_IDS,
    UNUSED_CLASS_BIAS,
    convert_class_rows,
    match_class_rows,
)


def test_coco_ids_and_names_are_detectron2s():
    from detectron2.data.datasets.builtin_meta import _get_coco_instances_meta

    metadata = _get_coco_instances_meta()
    contiguous = metadata["thing_dataset_id_to_contiguous_id"]
    assert list(COCO_CATEGORY_IDS) == sorted(contiguous, key=contiguous.get)
    assert coco_class_names(80) == metadata["thing_classes"]
    names = coco_class_names(91)
    assert len(names) == 91
    assert names.count(None) == 11
    assert (names[0], names[1], names[90]) == (None, "person", "toothbrush")
    assert coco_class_names(20) is None


@pytest.mark.parametrize("no_object", [False, True])
def test_class_rows_there_and_back(no_object):
    rows = 91 + no_object
    state = {
        "head.weight": torch.arange(rows * 2.0).view(rows, 2),
        "head.bias": torch.arange(float(rows)),
        "other": torch.ones(rows),
    }
    names = ["head.weight", "head.bias"]
    coco80, coco91 = coco_class_names(80), coco_class_names(91)
    selection = match_class_rows(coco80, 80, coco91, 91)
    small = convert_class_rows(state, names, selection)
    assert small["head.bias"].tolist() == [*COCO_CATEGORY_IDS, *([91] if no_object else [])]
    assert small["head.weight"][11].tolist() == [26.0, 27.0]
    assert len(small["other"]) == len(state["head.bias"]) == rows

    expansion = match_class_rows(coco91, 91, coco80, 80)
    large = convert_class_rows(small, names, expansion)
    used = [*COCO_CATEGORY_IDS, *([91] if no_object else [])]
    unused = sorted(set(range(rows)) - set(used))
    for name in names:
        assert torch.equal(large[name][used], state[name][used])
    assert large["head.weight"][unused].abs().sum() == 0
    assert (large["head.bias"][unused] == UNUSED_CLASS_BIAS).all()
    logits = torch.full((rows,), -5.0).index_fill(0, torch.tensor(unused), UNUSED_CLASS_BIAS)
    assert logits.softmax(0)[unused].max() < 1e-30


@pytest.mark.parametrize(("rows", "wanted", "wrong"), [(91, 80, 81), (80, 91, 92)])
def test_class_rows_of_the_wrong_number(rows, wanted, wrong):
    match = match_class_rows(coco_class_names(wanted), wanted, coco_class_names(rows), rows)
    with pytest.raises(CheckpointError, match=f"{wrong} rows, but {rows}"):
        convert_class_rows({"head": torch.ones(wrong)}, ["head"], match)
