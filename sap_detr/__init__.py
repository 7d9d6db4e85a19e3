"""Detection transformers on Detectron2: DETR, SAM-DETR and SAP-DETR as variants of one model.

Importing this package imports neither torch nor Detectron2, so that `python -m sap_detr.check_env`
can report a machine on which they are missing or broken.
"""

__version__ = "0.1.0"
