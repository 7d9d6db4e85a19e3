"""Values and lists in messages."""

import pytest

from sap_detr.text import listing, shorten


@pytest.mark.parametrize(
    ("count", "text"), [(0, ""), (1, "0"), (3, "0; 1; 2"), (5, "0; 1; 2 and 2 more")]
)
def test_listing(count, text):
    assert listing(range(count), 3, "; ") == text


def test_shorten():
    assert shorten("a") == "'a'"
    assert len(shorten("x" * 10_000)) <= 110
    assert len(shorten(10**1000)) <= 40
    assert len(shorten([[[[[[[[1] * 50] * 50]]]]]])) < 300
