#!/usr/bin/env python
"""Install a Detectron2 that needs no compiler: `sap-detr install-detectron2`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("install-detectron2"))
