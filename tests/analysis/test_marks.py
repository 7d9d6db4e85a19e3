from __future__ import annotations

import pytest

from sap_detr.analysis import MarkError
from sap_detr.analysis.marks import block_marks, marked_blocks, replace_blocks

(A, A_END), (B, B_END) = block_marks("a"), block_marks("b")


def test_blocks_are_found_and_replaced():
    text = f"before\n\n{A}\n\nold\n\n{A_END}\n\nbetween\n{B}\n{B_END}\nafter\n"
    assert marked_blocks(text) == {"a": "old", "b": ""}
    new = replace_blocks(text, {"a": "| longer |", "b": "\\1"})
    assert marked_blocks(new) == {"a": "| longer |", "b": "\\1"}
    assert new == (
        f"before\n\n{A}\n\n| longer |\n\n{A_END}\n\nbetween\n{B}\n\n\\1\n\n{B_END}\nafter\n"
    )
    assert replace_blocks(new, marked_blocks(new)) == new


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "there must be a line"),
        (f"{A}\n", "no partner"),
        (f"{A}\n{A_END}\n<!-- benchmark:begin -->\n", "benchmark:begin --> is no mark"),
        (f"{A}\n{A_END}\n<!-- benchmark:B2:end -->\n", "benchmark:B2:end --> is no mark"),
        (f"{A_END}\n{A}\n", "one .*a:begin.* and one .*a:end.* after it"),
        (f"{A}\n{B_END}\n", "one .*a:begin"),
        (f"{A}\n{A_END}\n{A}\n{A_END}\n", "one .*a:begin"),
        (f"{A}\n{B}\n{B_END}\n{A_END}\n", "one .*a:begin"),
    ],
)
def test_marks_that_are_no_pairs(text, message):
    with pytest.raises(MarkError, match=message):
        marked_blocks(text)
