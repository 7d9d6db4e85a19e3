"""Forms of the layers that the CPU computes faster, and the one place that decides about them."""

from .dispatch import cpu_form_applies, exporting

__all__ = ["cpu_form_applies", "exporting"]
