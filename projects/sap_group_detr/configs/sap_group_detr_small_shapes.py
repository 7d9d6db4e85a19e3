from sap_detr import model_zoo

_sap_detr = model_zoo.get_config("sap_detr/sap_detr_small_shapes.py")
dataloader, dataset, lr_multiplier = (
    _sap_detr.dataloader,
    _sap_detr.dataset,
    _sap_detr.lr_multiplier,
)
model, optimizer, train = _sap_detr.model, _sap_detr.optimizer, _sap_detr.train

model.decoder.num_groups = 4
train.output_dir = "output/sap_group_detr_small_shapes"
