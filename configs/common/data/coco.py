from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator

from sap_detr.data import (
    DetrDatasetMapper,
    build_crop_augmentations,
    build_test_augmentations,
    build_test_loader,
    build_train_augmentations,
    build_train_loader,
    dataset_records,
)

SHORT_SIDES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]

dataloader = dict(
    # Of images with more than 8 bits: full, bits=12, percentile=1 (of each file) or refuse.
    pixel_range="full",
    train=L(build_train_loader)(
        dataset=L(dataset_records)(names="coco_2017_train"),
        mapper=L(DetrDatasetMapper)(
            is_train=True,
            augmentations=L(build_train_augmentations)(short_sides=SHORT_SIDES, max_size=1333),
            augmentations_with_crop=L(build_crop_augmentations)(
                short_sides=SHORT_SIDES,
                max_size=1333,
                pre_crop_short_sides=[400, 500, 600],
                crop_range=[384, 600],
            ),
            crop_probability=0.5,
            # "pil" is published; "fast" differs from it by 1 of 255; "device" leaves the last
            # resize to the model as well.
            reader="fast",
            pixel_range="${...pixel_range}",
        ),
        total_batch_size=16,
        num_workers=4,
        # Images that turn out to be unreadable are replaced by others, up to this share of the set.
        max_bad_share=0.01,
    ),
    test=L(build_test_loader)(
        dataset=L(dataset_records)(names="coco_2017_val"),
        mapper=L(DetrDatasetMapper)(
            is_train=False,
            augmentations=L(build_test_augmentations)(short_side=800, max_size=1333),
            pixel_range="${...pixel_range}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}", tasks=["bbox"]),
)
