#!/usr/bin/env python
"""Check a data set before anything is trained on it: `sap-detr check`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("check"))
