"""Break training runs on purpose and look whether anything was lost.

``python -m tools.fault_campaign --help`` in the root of a checkout says how; Linux only. This is
test equipment and no part of the library.
"""
