#!/usr/bin/env python
"""Detect objects in images, videos or a webcam, and draw them: `sap-detr predict`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("predict"))
