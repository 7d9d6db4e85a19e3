import mmap
import os

import pytest
from fault_campaign.soak import SoakReport, resident_mebibytes


def test_growth_is_that_after_the_warm_up():
    iterations = list(range(0, 100, 10))
    steady = SoakReport(20, iterations, [0.0, 50.0, *[100.0] * 8], [0.0] * 10)
    assert steady.growth(steady.mebibytes) == 0
    assert "workers" not in str(steady)
    leaking = SoakReport(20, iterations, [100.0 + i for i in range(10)], [5.0] * 10)
    assert leaking.growth(leaking.mebibytes) == pytest.approx(6)
    assert "growth after the first 20 +6.00 MiB; workers 5.0 MiB" in str(leaking)


def test_memory_of_a_process():
    before = resident_mebibytes(os.getpid())
    # A mapping of its own: an allocation may get memory that the process holds already.
    with mmap.mmap(-1, 64 * 2**20) as block:
        block.write(b"x" * len(block))
        assert resident_mebibytes(os.getpid()) - before > 50
