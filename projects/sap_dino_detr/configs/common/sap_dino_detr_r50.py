from detectron2.config import LazyCall as L

from sap_detr import model_zoo
from sap_detr.modeling import OutsidePointCost, OutsidePoints
from sap_detr.projects.sap_dino_detr import SalientDenoiser, SapDinoDecoder

# Everything of DINO but what queries are.
model = model_zoo.get_config("dino/common/dino_r50.py").model
model.decoder._target_ = SapDinoDecoder
# "box": DINO's, for ablations; then without the cost "outside" and the metric "loss_inner".
model.decoder.reference = "salient"
model.decoder.point_movable = True
model.decoder.side_directed = True
model.decoder.gaussian = False
model.decoder.objectness = False
model.decoder.mask_empty_slots = True
model.decoder.padding_invariant = True
model.denoiser._target_ = SalientDenoiser
# As in SAP-DETR: the four sides in place of centre and size, and points inside of their object.
model.criterion.matcher.costs.bbox.corners = True
model.criterion.matcher.costs.outside = L(OutsidePointCost)(weight=9999.0)
model.criterion.losses.bbox.corners = True
model.criterion.metrics.loss_inner = L(OutsidePoints)()
