"""What the sub-commands of `sap-detr` do: in each module, ``run(args)`` returns the exit status.

The options are those of :mod:`sap_detr.parsers`, which says what they mean.
"""
