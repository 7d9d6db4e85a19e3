"""What was detected in many pictures, on disk: shares of a job, its parts, the files at the end."""

from .formats import write_coco, write_csv, write_image_list
from .image_ids import KnownIds, Picture, numbered_pictures
from .parts import Parts, PartsError
from .shards import Shard

__all__ = [
    "KnownIds",
    "Parts",
    "PartsError",
    "Picture",
    "Shard",
    "numbered_pictures",
    "write_coco",
    "write_csv",
    "write_image_list",
]
