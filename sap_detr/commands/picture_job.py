"""Goes through the pictures of a job, or of a shard of it: detects, draws, writes results."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from ..bad_files import BadFiles
from ..data import PixelRange, read_image
from ..detector import to_coco
from ..engine import NonFiniteDetectionsError
from ..modeling import TooFewCellsError
from ..results import (
    Parts,
    Picture,
    write_coco,
    write_csv,
    write_image_list,
)
from ..visualization.pixels import Pixels
from .painting import SMALLEST_PICTURE, Painter
from .picture_files import image_errors


@dataclass(frozen=True)
class ResultFiles:
    """Files that hold the detections of all pictures.

    Attributes:
        json: COCO results, or None.
        csv: a table, or None.
        csv_threshold: lowest score in the table.
        category_ids: by class number, -1 for classes that are left out; None where these are the
            class numbers.
        category_names: by category id.
        gives_ids: whether the ids of the pictures are this command's own.
    """

    json: Path | None
    csv: Path | None
    csv_threshold: float
    category_ids: Sequence[int] | None
    category_names: Mapping[int, str]
    gives_ids: bool

    @property
    def first(self) -> Path:
        """The file beside which parts are kept."""
        path = self.json or self.csv
        assert path is not None
        return path

    def record(self, picture: Picture, found: Instances) -> dict[str, Any]:
        """Return what is kept of a picture."""
        results = to_coco([found], [picture.id], self.category_ids)
        return {
            "file": str(picture.file),
            "id": picture.id,
            "size": list(found.image_size),
            "results": [result for result in results if result["category_id"] >= 0],
        }

    def write(self, records: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Write all files, and print what they are."""
        if self.json is not None:
            count = write_coco(records(), self.json)
            print(f"{self.json}: {count} detections, as COCO results")
        if self.csv is not None:
            count = write_csv(records(), self.csv, self.category_names, self.csv_threshold)
            least = f" of score {self.csv_threshold:g} and more" if self.csv_threshold else ""
            print(f"{self.csv}: {count} detections{least}")
        if self.gives_ids:
            image_list = image_list_of(self.first)
            write_image_list(records(), image_list, self.category_names)
            print(f"{image_list}: which ids the pictures and classes were given")


def image_list_of(result: Path) -> Path:
    """Return the file beside a result that says which ids pictures and classes were given."""
    return result.with_name(f"{result.stem}.images.json")


def digest_of(pictures: Sequence[Picture]) -> str:
    """Return a fingerprint of a list of pictures and their ids."""
    digest = hashlib.sha256()
    for picture in pictures:
        # Names of files need not be text.
        file = os.fsencode(picture.file)
        digest.update(b"%d\t%d\t%b\n" % (picture.number, picture.id, file))
    return digest.hexdigest()


@dataclass(frozen=True)
class PictureJob:
    """What is done with each picture.

    Attributes:
        painter: finds and draws.
        pixels: what becomes of images of more than 8 bits.
        bad: gets images that turn out to be damaged, that the model can't take, or on which its
            predictions are not finite.
        batch_size: how many images are looked at together.
        drawings: where pictures and sheets of attention are drawn, by the number of the picture;
            None if they are not.
        num_rows: how many detections such a sheet has at most; None where no points are drawn.
        results: what is kept of each picture; None for nothing.
    """

    painter: Painter
    pixels: PixelRange
    bad: BadFiles
    batch_size: int = 1
    drawings: Mapping[int, tuple[Path, Path]] | None = None
    num_rows: int | None = None
    results: ResultFiles | None = None

    def run(self, pictures: Sequence[Picture], parts: Parts | None = None) -> int:
        """Go through pictures, but for those that have a line in ``parts``.

        Returns:
            The number of pictures that could be used, with those of earlier runs.

        Raises:
            ImageError: for the first bad image, if it is to stop there.
        """
        done = set() if parts is None else parts.done
        left = [picture for picture in pictures if picture.number not in done]
        used = len(pictures) - len(left)
        with tqdm(
            total=len(pictures),
            initial=used,
            unit="picture",
            # On a terminal only.
            disable=None,
        ) as bar:
            for start in range(0, len(left), self.batch_size):
                batch = left[start : start + self.batch_size]
                for picture, image, found in self._detect(batch):
                    with self.bad.skipping(picture.file), image_errors(picture.file):
                        if self.drawings is not None:
                            files = self.drawings[picture.number]
                            bar.write(self._draw(picture, image, found, *files))
                        if parts is not None and self.results is not None:
                            parts.add(picture.number, self.results.record(picture, found))
                        used += 1
                bar.update(len(batch))
        return used

    def _detect(self, batch: Sequence[Picture]) -> Iterator[tuple[Picture, Pixels, Instances]]:
        images: list[tuple[Picture, Pixels]] = []
        for picture in batch:
            with self.bad.skipping(picture.file), image_errors(picture.file):
                images.append((picture, read_image(picture.file, pixel_range=self.pixels)))
        try:
            found = self.painter.find([image for _, image in images])
        except (NonFiniteDetectionsError, TooFewCellsError):
            # Of which picture shows when each is alone.
            for picture, image in images:
                with self.bad.skipping(picture.file), image_errors(picture.file):
                    [instances] = self.painter.find([image])
                    yield picture, image, instances
            return
        for (picture, image), instances in zip(images, found, strict=True):
            yield picture, image, instances

    def _draw(
        self, picture: Picture, image: Pixels, found: Instances, out: Path, sheet: Path
    ) -> str:
        see = str(out)
        if self.num_rows is None:
            drawn, count = self.painter.draw(image, found, SMALLEST_PICTURE)
        else:
            title = picture.file.name
            drawn, count = self.painter.draw_points(image, found, self.num_rows, title, sheet)
            see += f" and {sheet}" if count else ""
        Image.fromarray(drawn).save(out)
        return f"{picture.file}: {count} {'object' if count == 1 else 'objects'}, see {see}"
