#!/usr/bin/env python
"""Measure what configs cost: `sap-detr benchmark`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("benchmark"))
