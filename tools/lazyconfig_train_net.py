#!/usr/bin/env python
"""Train or evaluate what a LazyConfig describes: `sap-detr train`.

tools/lazyconfig_train_net.py --config-file configs/detr/detr_r50_500ep.py --num-gpus 8
torchrun --nproc-per-node 8 tools/lazyconfig_train_net.py --config-file FILE --resume
"""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("train"))
