"""Draws what a detector finds: in images, with their points, and in videos."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from tqdm import tqdm

from ..bad_files import ALL_USED, SOME_USED
from ..detector import Detector
from ..engine import NonFiniteDetectionsError
from ..visualization import (
    FrameReader,
    FrameWriter,
    QueryTrace,
    VideoError,
    attention_sheet,
    draw_points,
    explain,
    plays_in_browsers,
)
from ..visualization.pixels import Pixels

SMALLEST_PICTURE = 640  # pixels of the long side, below which labels are hard to read
SMALLEST_WITH_POINTS = 1280  # points move within a small part of the picture
ESCAPE_KEY = 27
# Share of a video's frames with which it counts as whole.
_WHOLE = 0.9


@dataclass(frozen=True)
class Painter:
    """Finds and draws: what images and videos have in common.

    Attributes:
        detector: finds.
        options: of :meth:`Detector.stream`, for all that is found.
        threshold: lowest score of what is drawn of that.
        top_k: most detections that are drawn of an image.
    """

    detector: Detector
    options: dict[str, Any]
    threshold: float
    top_k: int

    def find(self, images: Sequence[Pixels]) -> list[Instances]:
        """Return the detections of images (H, W, 3; RGB), the best first.

        Raises:
            NonFiniteDetectionsError: boxes or scores of the model are not finite.
        """
        return self.detector(list(images), **self.options)

    def draw(self, image: Pixels, found: Instances, min_long_side: int = 0) -> tuple[Pixels, int]:
        """Return the image with the detections that are to be shown, and how many these are."""
        shown = self._shown(found)
        return self.detector.draw(image, shown, min_long_side=min_long_side), len(shown)

    def draw_points(
        self, image: Pixels, found: Instances, num_rows: int, title: str, sheet: Path
    ) -> tuple[Pixels, int]:
        """Draw, and how the points of detections move, with a model that has points.

        Where something is detected, a sheet of what the queries of at most ``num_rows`` detections
        look at is written, too.
        """
        shown = self._shown(found)
        # A query may be detected as several classes: the best one counts.
        _, first = np.unique(shown.query_index.numpy(), return_index=True)
        queries = shown[torch.from_numpy(np.sort(first))]
        predictor, names = self.detector.predictor, self.detector.class_names
        explained = explain(predictor, image, queries=queries.query_index.tolist())
        traces = [QueryTrace.of(explained, index) for index in range(len(queries))]
        drawn = self.detector.draw(image, shown, min_long_side=SMALLEST_WITH_POINTS)
        drawn = draw_points(drawn, traces, queries.pred_classes.tolist())
        if traces:
            best, best_traces = queries[:num_rows], traces[:num_rows]
            attention_sheet(image, best, best_traces, sheet, names, title=title)
        return drawn, len(shown)

    def _shown(self, found: Instances) -> Instances:
        return found[found.scores >= self.threshold][: self.top_k]


def detect_in_frames(
    painter: Painter, reader: FrameReader, out: Path, max_frames: int | None, window: bool
) -> int:
    """Write a video until the frames end or the user stops it: Ctrl-C, Escape in the window.

    Returns:
        The exit status: 1 if the video ended long before its end.

    Raises:
        VideoError: if it can't be written, or the model's predictions for a frame are not finite.
    """
    frames = itertools.islice(reader, max_frames)
    total = min(filter(None, (reader.num_frames, max_frames)), default=None)
    done, is_stopped = 0, True
    with FrameWriter(out, reader.rate) as writer, contextlib.suppress(KeyboardInterrupt):
        for frame in tqdm(frames, total=total, desc=reader.name, unit="frame"):
            try:
                drawn, _ = painter.draw(frame, *painter.find([frame]))
            except NonFiniteDetectionsError as error:
                raise VideoError(f"{reader.name}, frame {done + 1}: {error}") from error
            writer.write(drawn)
            done += 1
            if window:
                try:
                    cv2.imshow(reader.name, cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                    if cv2.waitKey(1) == ESCAPE_KEY:
                        break
                except cv2.error:
                    window = False
                    print("this OpenCV shows no windows: recording only, Ctrl-C to stop")
        else:
            is_stopped = False
    print(f"{reader.name}: {done} frames, see {out}")
    if not plays_in_browsers():
        print("for videos that browsers play, too: pip install sap-detr[video]")
    # Containers may be some frames off.
    if is_stopped or total is None or done >= _WHOLE * total:
        return ALL_USED
    print(
        f"{reader.name} ended after {done} of {total} frames: it is cut off or damaged",
        file=sys.stderr,
    )
    return SOME_USED
