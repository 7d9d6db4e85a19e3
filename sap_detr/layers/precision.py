"""The places that stay in full precision under autocast, and the one function that makes them so.

Half precision has too few digits for coordinates and for differences of large numbers. These are
computed in float32 (or float64, if the model is in float64), whatever autocast says:

* class logits and boxes as they leave the heads: box decoding, inverse sigmoid, losses and
  post-processing all start from there;
* reference points and sides, their inverse sigmoid and their updates (SAP-DETR);
* the Gaussian in the cross-attention, up to the sum of its two terms, and the attention itself
  where the Gaussian is folded into the dot products;
* where deformable attention samples, and what it sums: weights and sampled values;
* the statistics of a masked group normalisation;
* the matching cost;
* position encodings.
"""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and leaves float32 and float64 alone."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that :func:`full_precision` would give a tensor of ``dtype``."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
