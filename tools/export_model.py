#!/usr/bin/env python
"""Write a detector to a file that runs elsewhere: `sap-detr export`."""

from __future__ import annotations

import sys

from sap_detr.cli import script

if __name__ == "__main__":
    sys.exit(script("export"))
