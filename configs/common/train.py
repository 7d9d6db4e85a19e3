import torch

train = dict(
    output_dir="output/train",
    # Weights to start from or to evaluate: ours, published, or ImageNet weights of the backbone.
    init_checkpoint="",
    # "scored": the moving average where the checkpoint has one, which is what was evaluated; "raw":
    # the weights of which it is the average.
    weights="scored",
    # Patterns of names, such as decoder.query_embed.*, that keep the model's initial values.
    reinitialise=[],
    # 50 ep = 369600 iters * 16 images/iter / 118287 images (7392 whole batches an epoch).
    max_iter=369600,
    device="cuda" if torch.cuda.is_available() else "cpu",
    seed=42,
    cudnn_benchmark=False,
    # Largest batch that a GPU can hold; what is over it is accumulated. None: no limit.
    max_images_per_gpu=None,
    # Gradients of the whole model are scaled down to this norm; None: never.
    clip_grad_norm=0.1,
    amp=dict(enabled=False, dtype="bfloat16"),
    # torch.compile with these options; set model.size_multiple too, such as 128, so that the sizes
    # of batches repeat. What comes after the first max_graphs is not compiled.
    compile=dict(enabled=False, backend="inductor", mode=None, dynamic=False, max_graphs=256),
    # Compute the layers of encoder and decoder again in the backward pass instead of keeping what
    # it needs: less memory, more time.
    activation_checkpointing=False,
    # A step whose loss or gradient is NaN or infinite changes nothing. "skip": go on, unless more
    # than so many in all or in a row had to be skipped; "stop": end the run.
    non_finite=dict(policy="skip", max_skipped=100, max_consecutive=20),
    ema=dict(enabled=False, decay=0.9997),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # Minutes after which processes give up waiting for one that does not come.
    process_group_timeout=30,
    # In iterations: once per epoch. There is a checkpoint before each evaluation.
    checkpointer=dict(period=7392, max_to_keep=5),
    eval_period="${.checkpointer.period}",
    best_metric="bbox/AP",
    # End when so many evaluations in a row have not raised best_metric by more than min_delta;
    # None: never.
    early_stopping=dict(patience=None, min_delta=0.0),
    log_period=20,
    # None: where errors go to a terminal.
    progress_bar=None,
    # More of Detectron2's HookBase, built in every process, and of its EventWriter, in the first.
    # Hooks come after evaluation and checkpoint, which has their state before its own step.
    hooks=[],
    writers=[],
    # Look at every image file before training starts; those of the test sets are decoded.
    check_data=True,
    # Filled from the data set and kept in checkpoints.
    class_names=None,
)
