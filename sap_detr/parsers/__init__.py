"""The options of the sub-commands of `sap-detr`: in each module, ``add_options(parser)``.

Nothing here imports torch or Detectron2, so that ``--help`` and mistakes take no time. A module's
docstring is what ``--help`` says, with the keys and examples that are used most.
"""
