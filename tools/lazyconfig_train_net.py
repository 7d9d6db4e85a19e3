#!/usr/bin/env python
"""Trains or evaluates what a LazyConfig describes, on CPU or GPUs, on one machine or several.

Starts one process per GPU, or is one of those that torchrun or SLURM's srun started.

tools/lazyconfig_train_net.py --config-file configs/detr/detr_r50_500ep.py --num-gpus 8
tools/lazyconfig_train_net.py --config-file FILE --eval-only train.init_checkpoint=WEIGHTS
tools/lazyconfig_train_net.py --config-file FILE --resume train.output_dir=FOLDER key=value ...
torchrun --nproc-per-node 8 tools/lazyconfig_train_net.py --config-file FILE --resume
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Requests to stop wait for the imports to be done: main() obeys them.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))

from sap_detr.engine.main import main

if __name__ == "__main__":
    sys.exit(main())
