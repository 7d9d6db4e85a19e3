#!/usr/bin/env python
"""Convert checkpoints of published code, and back: `sap-detr convert`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("convert"))
