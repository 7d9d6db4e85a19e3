from detectron2.config import LazyCall as L
from point_decoder import PointDecoder

from sap_detr import model_zoo

# Everything but the decoder is that of a recipe: data, encoder, losses, matcher, rates.
_recipe = model_zoo.get_config("detr/detr_small_shapes.py")
dataloader, dataset, optimizer = _recipe.dataloader, _recipe.dataset, _recipe.optimizer
lr_multiplier, model, train = _recipe.lr_multiplier, _recipe.model, _recipe.train

model.decoder = L(PointDecoder)(
    num_classes="${..num_classes}", grid=[4, 4], num_layers=3, width="${..neck.embed_dim}"
)
train.output_dir = "output/point_detr"
