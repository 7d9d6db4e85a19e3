"""Frames go into a file and come back."""

import sys

import av
import numpy as np
import pytest

from sap_detr.visualization import FrameReader, FrameWriter, VideoError, plays_in_browsers


@pytest.fixture(params=["h264", "mpeg4"])
def codec(request, monkeypatch):
    """With and without PyAV."""
    if request.param == "mpeg4":
        monkeypatch.setitem(sys.modules, "av", None)
    return request.param


@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("size", [(64, 96), (63, 97)])
def test_frames_come_back_in_order_and_colour(tmp_path, size):
    path = tmp_path / "v.mp4"
    colors = [(220, 30, 30), (30, 30, 220)]
    with FrameWriter(path, rate=10) as writer:
        for color in colors:
            writer.write(np.full((*size, 3), color, np.uint8))
    reader = FrameReader(path)
    assert reader.rate == pytest.approx(10)
    assert reader.num_frames == 2
    frames = list(reader)
    assert len(frames) == 2
    for frame, color in zip(frames, colors, strict=True):
        assert abs(frame.shape[0] - size[0]) <= 1
        np.testing.assert_allclose(frame[30, 40], color, atol=8)


def test_browsers_play_videos(tmp_path):
    path = tmp_path / "v.mp4"
    with FrameWriter(path, rate=29.97) as writer:
        for _ in range(3):
            writer.write(np.full((63, 97, 3), 90, np.uint8))
    with av.open(str(path)) as file:
        [stream] = file.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.width, context.height) == (98, 64)
        assert context.colorspace == 1
        assert stream.average_rate == 30000 / 1001 or abs(stream.average_rate - 29.97) < 0.01
    # Played while it is loading.
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_without_pyav_it_is_said_how_to_get_it(monkeypatch):
    assert plays_in_browsers()
    monkeypatch.setitem(sys.modules, "av", None)
    assert not plays_in_browsers()


@pytest.mark.usefixtures("codec")
def test_a_folder_that_is_not_there_is_told(tmp_path):
    with (
        pytest.raises(VideoError, match=r"v\.mp4 can't be written"),
        FrameWriter(tmp_path / "none" / "v.mp4", rate=10) as writer,
    ):
        writer.write(np.zeros((64, 96, 3), np.uint8))


def test_frames_above_the_limit_of_images_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    with FrameWriter(path, rate=10) as writer:
        writer.write(np.zeros((64, 96, 3), np.uint8))
    monkeypatch.setenv("SAP_DETR_MAX_IMAGE_PIXELS", str(64 * 96))
    assert len(list(FrameReader(path))) == 1
    monkeypatch.setenv("SAP_DETR_MAX_IMAGE_PIXELS", str(64 * 96 - 1))
    with pytest.raises(VideoError, match=r"v\.mp4.*96x64 .*limit of 6143"):
        FrameReader(path)


def test_what_is_no_video_is_an_error(tmp_path):
    with pytest.raises(VideoError, match=r"no video file.*none\.mp4"):
        FrameReader(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        FrameReader(tmp_path / "text.mp4")
    with pytest.raises(VideoError, match="webcam 987"):
        FrameReader(987)


@pytest.mark.usefixtures("codec")
def test_frames_that_would_be_lost_or_garbled_are_refused(tmp_path):
    frame = np.zeros((64, 96, 3), np.uint8)
    with FrameWriter(tmp_path / "v.mp4", rate=10) as writer:
        with pytest.raises(ValueError, match="float64"):
            writer.write(frame / 255)
        writer.write(frame)
        with pytest.raises(ValueError, match="96x62, the first was 96x64"):
            writer.write(frame[:62])
        writer.write(frame)
    assert len(list(FrameReader(tmp_path / "v.mp4"))) == 2
