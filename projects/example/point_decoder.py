"""A decoder of one's own: DETR's layers, with queries that are points of a grid."""

import torch
from torch import nn

from sap_detr.layers import MLP, encode_points
from sap_detr.modeling import DetrDecoderLayer, Predictions, inverse_sigmoid


class PointDecoder(nn.Module):
    """Every query has a point in the image, from which the centre of its box is measured."""

    def __init__(self, num_classes, grid=(4, 4), num_layers=3, width=96, num_heads=8, ffn=256):
        super().__init__()
        rows, columns = ((torch.arange(length) + 0.5) / length for length in grid)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        self.points = nn.Parameter(inverse_sigmoid(torch.stack((x, y), dim=-1).flatten(0, 1)))
        self.layers = nn.ModuleList(
            DetrDecoderLayer(width, num_heads, ffn, dropout=0.0) for _ in range(num_layers)
        )
        self.position = MLP(width, width, width, num_layers=2)
        self.norm = nn.LayerNorm(width)
        self.class_head = nn.Linear(width, num_classes + 1)  # the last is "no object"
        self.box_head = MLP(width, width, 4, num_layers=3)
        self.width = width

    def forward(self, memory, all_layers=True):
        """Turn the memory, a list of FeatureMaps, into logits (L, B, Q, C + 1) and boxes."""
        [level] = memory
        tokens, padding = level.tokens, level.token_padding_mask  # (B, N, D), (B, N) or None
        key = tokens + level.token_position
        encoded = encode_points(self.points.sigmoid(), self.width, temperature=20.0)
        position = self.position(encoded)[None]  # (1, Q, D)
        content = torch.zeros_like(position).expand(len(tokens), -1, -1)
        contents = []
        for layer in self.layers:
            content = layer(content, position, key, tokens, padding)
            contents.append(content)
        hidden = self.norm(torch.stack(contents if all_layers else contents[-1:]))
        centre, size = self.box_head(hidden).split(2, dim=-1)
        boxes = torch.cat((self.points + centre, size), dim=-1).sigmoid()  # (L, B, Q, 4)
        return Predictions(self.class_head(hidden), boxes)
