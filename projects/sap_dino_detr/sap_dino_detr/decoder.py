"""DINO's decoder with SAP-DETR's queries."""

from __future__ import annotations

from typing import Any

from sap_detr.modeling import BoxReference, DinoDecoder, Reference

from .reference import FixedPointReference, SalientReference


class SapDinoDecoder(DinoDecoder):
    """DINO's first stage and decoder, whose queries are points with sides.

    Args:
        num_classes: number of object classes C.
        reference: "salient", a point in the cell of its token and the sides around it; or "box",
            which is DINO.
        point_movable: whether points move inside their cells; if not, they stay where they start.
        options: see :class:`~sap_detr.modeling.DinoDecoder`.

    Raises:
        ValueError: if ``reference`` is neither, or boxes shall have points that do not move.
    """

    def __init__(
        self,
        num_classes: int,
        reference: str = "salient",
        point_movable: bool = True,
        **options: Any,
    ) -> None:
        references: dict[tuple[str, bool], type[Reference]] = {
            ("salient", True): SalientReference,
            ("salient", False): FixedPointReference,
            ("box", True): BoxReference,
        }
        if (reference, point_movable) not in references:
            raise ValueError(
                "reference must be 'salient', or 'box' with point_movable=True; got "
                f"{reference!r} with point_movable={point_movable}"
            )
        super().__init__(num_classes, reference=references[reference, point_movable], **options)
