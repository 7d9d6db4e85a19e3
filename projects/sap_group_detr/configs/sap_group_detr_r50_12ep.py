from sap_detr import model_zoo

_sap_detr = model_zoo.get_config("sap_detr/sap_detr_r50_12ep.py")
dataloader, model, train = _sap_detr.dataloader, _sap_detr.model, _sap_detr.train
lr_multiplier, optimizer = _sap_detr.lr_multiplier, _sap_detr.optimizer

# Group DETR's number.
model.decoder.num_groups = 11
train.output_dir = "output/sap_group_detr_r50_12ep"
