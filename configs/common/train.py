train = dict(
    output_dir="output/train",
    # Weights to start from or to evaluate: ours, published, or ImageNet weights of the backbone.
    init_checkpoint="",
    # None: the number of epochs that the schedule says.
    max_iter=None,
    # None: the GPU if there is one.
    device=None,
    seed=42,
    cudnn_benchmark=False,
    # Largest batch that a GPU can hold; what is over it is accumulated. None: no limit.
    max_images_per_gpu=None,
    # Gradients of the whole model are scaled down to this norm; None: never.
    clip_grad_norm=0.1,
    amp=dict(enabled=False, dtype="bfloat16"),
    ema=dict(enabled=False, decay=0.9997),
    ddp=dict(broadcast_buffers=False),
    # Periods are in iterations; None: once per epoch.
    checkpointer=dict(period=None, max_to_keep=5),
    eval_period=None,
    best_metric="bbox/AP",
    log_period=20,
    progress_bar=False,
    # Look at every image file before training starts.
    check_data=True,
    # Filled from the data set and kept in checkpoints.
    class_names=None,
)
