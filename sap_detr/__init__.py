"""Detection transformers on Detectron2: DETR, SAM-DETR and SAP-DETR as variants of one model.

Importing this package imports neither torch nor Detectron2, so that `python -m sap_detr.check_env`
can report a machine on which they are missing or broken.
"""

import warnings

__version__ = "0.1.0"

# Of Detectron2 0.5 and fvcore, which use what torch 2 gives up: as they are imported, and where
# processes train together.
for _text in ("`torch.jit", "`broadcast_buffers` is deprecated", "TypedStorage is deprecated"):
    warnings.filterwarnings("ignore", _text)
