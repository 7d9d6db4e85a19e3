from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

# The rate drops to a tenth at the milestones. Only their share of num_updates counts, so both are
# in epochs, and a training that is made shorter drops earlier.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[40], num_updates=50),
    # As a share of the training.
    warmup_length=0.0,
    warmup_factor=0.001,
    warmup_method="linear",
)
