"""The training command with a fault, which the environment variable FAULT names.

``raise in training 1``: rank 1 raises an error in iteration 2. Instead of ``raise``: ``kill`` ends
the process as the system does when memory runs out, ``stop`` sends it SIGTERM, ``hold`` lets it
wait for a file of the name HOLD to disappear. Instead of ``training``: ``evaluation``, of the first
image.
"""

import os
import signal
import sys
import time
from pathlib import Path

from detectron2.utils import comm

from sap_detr.engine import StepTrainer, StopSignals
from sap_detr.engine.main import main
from sap_detr.modeling.meta_arch import DetectionTransformer

FAULTY_ITERATION = 2
entered = []


def fail(kind):
    if kind == "raise":
        raise ValueError("the fault of this test")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
        # A thread hears it.
        while not entered[-1].requested:
            time.sleep(0.01)
    if kind == "hold":
        print("holding", flush=True)
        while Path(os.environ["HOLD"]).exists():
            time.sleep(0.01)


def install(fault):
    kind, _, where, rank = fault.split()
    run_step, forward = StepTrainer.run_step, DetectionTransformer.forward
    evaluated = []

    def faulty_step(self):
        if where == "training" and self.iter == FAULTY_ITERATION and comm.get_rank() == int(rank):
            fail(kind)
        return run_step(self)

    def faulty_forward(self, *args, **kwargs):
        here = where == "evaluation" and comm.get_rank() == int(rank)
        if here and not self.training and not evaluated:
            evaluated.append(True)
            fail(kind)
        return forward(self, *args, **kwargs)

    enter = StopSignals.__enter__

    def recorded_enter(self):
        entered.append(self)
        return enter(self)

    StopSignals.__enter__ = recorded_enter
    StepTrainer.run_step = faulty_step
    DetectionTransformer.forward = faulty_forward


if "FAULT" in os.environ:
    install(os.environ["FAULT"])

if __name__ == "__main__":
    sys.exit(main())
