"""Frames from video files and cameras, and videos from frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..data.images import LIMIT_VARIABLE, too_many_pixels
from ..errors import UserError
from .pixels import Pixels, check_image

_DEFAULT_RATE = 25.0
_H264 = "libx264"
# FFmpeg's number of the colours that players expect of large pictures, and are told for others.
_BT709 = 1


class VideoError(UserError, ValueError):
    """A video or camera can't be used; the message names it."""


class FrameReader:
    """The frames of a video file or camera, opened at once and read one by one.

    Args:
        source: file, or number of a camera.

    Attributes:
        rate: frames per second; 25 where the source does not say.
        num_frames: how many there are to come; None if that is not known, as with a camera.

    Raises:
        VideoError: if it can't be opened, has no frames, or has frames of more pixels than
            ``sap_detr.data.max_image_pixels``.
    """

    def __init__(self, source: str | os.PathLike[str] | int) -> None:
        camera = isinstance(source, int)
        self.name = f"webcam {source}" if camera else f"video {source}"
        if not isinstance(source, int) and not Path(source).is_file():
            raise VideoError(f"there is no video file {source}")
        self._capture, self._first = _open(source if isinstance(source, int) else str(source))
        if self._first is None:
            camera_reason = (
                "gives no pictures. Is it plugged in, free, and may this program use it?"
            )
            reason = camera_reason if camera else "has no frame that can be read. Is it a video?"
            raise VideoError(f"{self.name} {reason}")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 1000 else _DEFAULT_RATE
        count = 0 if camera else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 else None

    def __iter__(self) -> Iterator[Pixels]:
        """Frames (H, W, 3), RGB. The source is closed at the end."""
        frame = self._first
        try:
            while frame is not None:
                yield np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
                found, frame = self._capture.read()
                if not found:
                    return
        finally:
            self._capture.release()


def _open(source: str | int) -> tuple[Any, Any]:
    """Return an OpenCV capture and its first frame (BGR), or None for one that has no frame."""
    # OpenCV's own warnings would bury the message that the user needs.
    logging: Any = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        capture: Any = cv2.VideoCapture(source)
        width, height = (
            int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        too_large = too_many_pixels(width, height)
        if too_large is not None:
            capture.release()
            raise VideoError(f"{source}: a frame of {too_large} ({LIMIT_VARIABLE} sets another)")
        found, frame = capture.read() if capture.isOpened() else (False, None)
        if not found:
            capture.release()
        return capture, frame if found else None
    finally:
        logging.setLogLevel(level)


class FrameWriter:
    """Writes frames of one size into an MP4 file; to be used in a ``with`` statement.

    With PyAV (``pip install sap-detr[video]``) it is H.264, which browsers play: a width or height
    that is odd grows by one pixel there. Else it is OpenCV's MPEG-4 part 2, which they don't.

    Args:
        path: file to write.
        rate: frames per second.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        self.path = Path(path)
        self.rate = rate
        self._encoder: _H264Encoder | _Mpeg4Encoder | None = None
        self._size = (0, 0)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._encoder is not None:
            self._encoder.close()

    def write(self, frame: Pixels) -> None:
        """Add a frame (H, W, 3), RGB.

        Raises:
            ValueError: if it is no uint8 array of that shape, or of another size than the first.
            VideoError: if the file can't be written.
        """
        check_image(frame)
        height, width = frame.shape[:2]
        if self._encoder is None:
            self._size = (width, height)
            encoder = _H264Encoder if plays_in_browsers() else _Mpeg4Encoder
            self._encoder = encoder(self.path, self.rate, self._size)
        if (width, height) != self._size:  # OpenCV would leave it out without a word
            first = "{}x{}".format(*self._size)
            raise ValueError(f"{self.path}: a frame is {width}x{height}, the first was {first}")
        self._encoder.write(frame)


def plays_in_browsers() -> bool:
    """Say whether videos can be written as H.264 here."""
    try:
        import av
    except ImportError:
        return False
    return _H264 in av.codecs_available


class _H264Encoder:
    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        av = import_module("av")
        # The index goes to the front, so that a page can play the file while it is loading.
        self._file = av.open(str(path), "w", options={"movflags": "+faststart"})
        self._stream = self._file.add_stream(_H264, Fraction(rate).limit_denominator(1001))
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        try:
            self._file.start_encoding()
        except av.FFmpegError as error:
            raise VideoError(f"{path} can't be written: {error.strerror}") from error

    def write(self, frame: Pixels) -> None:
        height, width = frame.shape[:2]
        even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = import_module("av").VideoFrame.from_ndarray(even, "rgb24")
        self._mux(picture.reformat(format="yuv420p", dst_colorspace=_BT709))

    def close(self) -> None:
        self._mux(None)
        self._file.close()

    def _mux(self, picture: Any) -> None:
        for packet in self._stream.encode(picture):
            self._file.mux(packet)


class _Mpeg4Encoder:
    def __init__(self, path: Path, rate: float, size: tuple[int, int]) -> None:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(path), codec, rate, size)
        if not self._writer.isOpened():
            raise VideoError(f"{path} can't be written: this OpenCV can't make MP4 files")

    def write(self, frame: Pixels) -> None:
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()
