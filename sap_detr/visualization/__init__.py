"""Pictures: detections in images and videos, contact sheets, and curves of training runs."""

from .curves import (
    Curve,
    MetricsError,
    last_layer_losses,
    plot_by_epoch,
    plot_curves,
    read_by_epoch,
    read_metrics,
)
from .detections import class_name, draw_detections
from .explanation import EncoderSamples, Explanation, explain
from .page import ShownModel, ShownPicture, write_page
from .palette import class_color
from .points import attention_sheet, draw_points
from .predictor import Predictor, check_finite
from .sheet import SheetRow, detection_sheet, validation_rows
from .traces import QueryTrace, check_points
from .video import FrameReader, FrameWriter, VideoError, plays_in_browsers

__all__ = [
    "Curve",
    "EncoderSamples",
    "Explanation",
    "FrameReader",
    "FrameWriter",
    "MetricsError",
    "Predictor",
    "QueryTrace",
    "SheetRow",
    "ShownModel",
    "ShownPicture",
    "VideoError",
    "attention_sheet",
    "check_finite",
    "check_points",
    "class_color",
    "class_name",
    "detection_sheet",
    "draw_detections",
    "draw_points",
    "explain",
    "last_layer_losses",
    "plays_in_browsers",
    "plot_by_epoch",
    "plot_curves",
    "read_by_epoch",
    "read_metrics",
    "validation_rows",
    "write_page",
]
