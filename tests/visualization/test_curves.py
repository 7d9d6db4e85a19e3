"""Reading metrics.json as Detectron2 writes it, and the picture made of it."""

import json
import math
from itertools import pairwise

import numpy as np
import plot_curves as command_line
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from sap_detr.visualization import (
    MetricsError,
    last_layer_losses,
    plot_by_epoch,
    plot_curves,
    read_by_epoch,
    read_metrics,
)
from sap_detr.visualization.palette import SERIES_COLORS


def write(folder, records, tail=""):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.json").write_text(text + tail)
    return folder


def training(iterations, **more):
    return [
        {
            "iteration": i,
            "total_loss": 10.0 - i / 10,
            "loss_class": 1.0,
            "loss_class_0": 2.0,
            **more,
        }
        for i in iterations
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that plot_curves saves."""
    figures = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def panel(figure, title):
    [axes] = [axes for axes in figure.findobj(Axes) if axes.get_title("left") == title]
    return axes


def labels(axes):
    """What is written beside the curves, from top to bottom."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_truncated_last_line_is_left_out(tmp_path):
    run = write(tmp_path, training([19, 39]), tail='{"iteration": 59, "total_lo')
    total = read_metrics(run)["total_loss"]
    assert total.iterations.tolist() == [19, 39]
    np.testing.assert_allclose(total.values, [8.1, 6.1])
    assert read_metrics(run / "metrics.json").keys() == read_metrics(run).keys()


def test_a_broken_line_amid_others_is_reported(tmp_path, caplog):
    run = write(tmp_path, training([19]), tail='{"iteration": 3{"iteration": 39}\n')
    with (run / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": 59, "total_loss": 1.0}) + "\n")
    assert read_metrics(run)["total_loss"].iterations.tolist() == [19, 59]
    assert "[2]" in caplog.text


def test_what_a_resumed_run_does_again_replaces_what_was_there(tmp_path):
    again = [{"iteration": 30, "total_loss": 77.0}, {"iteration": 39, "total_loss": 66.0}]
    run = write(tmp_path, [*training([19, 39, 59]), {"iteration": 59, "bbox/AP": 5.0}, *again])
    metrics = read_metrics(run)
    assert metrics["total_loss"].iterations.tolist() == [19, 30, 39]
    assert metrics["total_loss"].values.tolist() == [8.1, 77.0, 66.0]
    assert metrics["bbox/AP"].values.tolist() == [5.0]


def test_quantities_written_in_one_go_may_be_of_different_iterations(tmp_path):
    # JSONWriter does not sort the iterations of one write.
    run = write(tmp_path, [*training([59]), {"iteration": 40, "class_error": 3.0}])
    metrics = read_metrics(run)
    assert metrics["total_loss"].iterations.tolist() == [59]
    assert metrics["class_error"].iterations.tolist() == [40]


def test_values_that_are_not_finite_are_kept(tmp_path):
    values = read_metrics(
        write(tmp_path, [{"iteration": 0, "x": math.nan}, {"iteration": 1, "x": -math.inf}])
    )["x"]
    assert math.isnan(values.values[0])
    assert values.values[1] == -math.inf


def test_missing_and_empty_files_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_metrics(tmp_path / "nowhere")
    with pytest.raises(MetricsError, match=r"metrics\.json"):
        read_metrics(write(tmp_path, [], tail="not json\n[1]\n"))


def test_last_layer_losses():
    keys = [
        "loss_dn_class",
        "loss_proposal_l1",
        "loss_class",
        "loss_class_0",
        "loss_giou_12",
        "loss_l1",
        "total_loss",
        "lr",
    ]
    assert last_layer_losses(dict.fromkeys(keys)) == ["loss_class", "loss_l1"]


def test_the_picture_shows_every_run_in_its_own_colour(tmp_path, drawn):
    runs = {}
    for name, ap in (("first", 20.0), ("second", 40.0)):
        evaluation = {"iteration": 39, "bbox/AP": ap, "bbox/AP50": ap + 10}
        runs[name] = write(tmp_path / name, [*training([19, 39]), evaluation])
    out = plot_curves(runs, tmp_path / "new" / "out.png")
    assert Image.open(out).size == (1600, 992)

    [figure] = drawn
    ap = panel(figure, "Box AP on the validation set, in %")
    assert [line.get_ydata().tolist() for line in ap.lines] == [[20.0], [30.0], [40.0], [50.0]]
    assert [line.get_xdata().tolist() for line in ap.lines] == [[40.0]] * 4
    blue, vermilion = SERIES_COLORS[:2]
    assert [line.get_color() for line in ap.lines] == [blue, blue, vermilion, vermilion]
    assert labels(ap) == ["AP50 50.0", "AP 40.0", "AP50 30.0", "AP 20.0"]
    panel(figure, "loss_class")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["first", "second"]


@pytest.mark.parametrize(
    ("x", "steps", "expected"),
    [
        ("iteration", None, [20, 40]),
        ("epoch", 10, [2, 4]),
        ("epoch", {"run": 20}, [1, 2]),
        ("minutes", None, [1, 2]),
    ],
)
def test_the_horizontal_axis(tmp_path, drawn, x, steps, expected):
    run = write(tmp_path, training([19, 39], time=3.0))
    plot_curves({"run": run}, tmp_path / "out.png", x=x, iterations_per_epoch=steps)
    np.testing.assert_allclose(panel(drawn[0], "Total loss").lines[0].get_xdata(), expected)


def test_epochs_are_taken_from_the_log_if_it_has_them(tmp_path, drawn):
    records = [{**r, "epoch": (r["iteration"] + 1) / 8} for r in training([7, 15])]
    evaluation = {"iteration": 23, "bbox/AP": 1.0}  # later than the last logged epoch
    plot_curves({"run": write(tmp_path, [*records, evaluation])}, tmp_path / "o.png", x="epoch")
    assert panel(drawn[0], "Total loss").lines[0].get_xdata().tolist() == [1, 2]
    ap = panel(drawn[0], "Box AP on the validation set, in %")
    assert ap.lines[0].get_xdata().tolist() == [3]


def test_a_loss_that_stops_being_finite_is_marked(tmp_path, drawn):
    run = write(tmp_path, [*training([19, 39]), {"iteration": 59, "total_loss": math.nan}])
    plot_curves({"run": run}, tmp_path / "out.png")
    total = panel(drawn[0], "Total loss")
    assert labels(total) == ["not finite"]
    assert total.lines[-1].get_xdata() == pytest.approx([40])


def test_runs_without_evaluation_or_without_training_can_be_drawn(tmp_path, drawn):
    untested = write(tmp_path / "a", training([19]))
    untrained = write(tmp_path / "b", [{"iteration": 0, "bbox/AP": math.nan}])
    plot_curves({"a": untested, "b": untrained}, tmp_path / "out.png")
    ap = panel(drawn[0], "Box AP on the validation set, in %")
    assert [text.get_text() for text in ap.texts] == ["not evaluated yet"]


def test_reading_by_epoch(tmp_path):
    records = [{**r, "epoch": (r["iteration"] + 1) / 8} for r in training([7, 15])]
    values = [math.nan, 2.0, 3.0]
    records += [{"iteration": i, "bbox/AP": v} for i, v in zip((3, 7, 23), values, strict=True)]
    run = write(tmp_path, sorted(records, key=lambda record: record["iteration"]))
    epochs, ap = read_by_epoch(run, "bbox/AP")
    assert epochs.tolist() == [1, 3]
    assert ap.tolist() == [2.0, 3.0]
    assert read_by_epoch(run, "bbox/AP", 4)[0].tolist() == [2, 6]
    with pytest.raises(MetricsError, match=f"{tmp_path}.* has no bbox/AP50"):
        read_by_epoch(run, "bbox/AP50")
    with pytest.raises(MetricsError, match="give iterations_per_epoch"):
        read_by_epoch(write(tmp_path / "b", training([3])), "total_loss")


def epoch_curve(label, epochs, values, **look):
    return Line2D(epochs, values, label=label, color="#112233", **look)


def test_panels_by_epoch_share_their_height(tmp_path, drawn):
    panels = {
        "one": [epoch_curve("a", [1, 2, 3], [12, 13, 14]), epoch_curve("b", [1], [31.26])],
        "two": [epoch_curve("c", [4, 8], [20, 21], linestyle="--", linewidth=3.0)],
    }
    out = plot_by_epoch(panels, tmp_path / "new" / "out.png", y_label="AP")
    assert Image.open(out).size == (1600, 768)
    first, second = drawn[0].axes
    assert first.get_ylim() == second.get_ylim() == (10, 35)
    assert (first.get_xlim(), second.get_xlim()) == ((0, 3), (0, 8))
    assert (first.get_title("left"), second.get_title("left")) == ("one", "two")
    assert labels(first) == ["b 31.3", "a 14.0"]
    # A single value is seen.
    _, single = first.lines
    assert single.get_marker() == "o"
    assert single.get_markersize() > 0
    [line] = second.lines
    assert (line.get_linestyle(), line.get_linewidth(), line.get_color()) == ("--", 3.0, "#112233")


def test_panels_by_epoch_need_curves(tmp_path):
    for panels in ({}, {"one": []}):
        with pytest.raises(ValueError, match="needs a curve"):
            plot_by_epoch(panels, tmp_path / "out.png", y_label="AP")


def test_labels_of_equal_curves_do_not_collide(tmp_path, drawn):
    equal = [epoch_curve(name, [1, 2], [10, 20]) for name in "abc"]
    plot_by_epoch({"one": equal}, tmp_path / "out.png", y_label="AP")
    drawn[0].draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


def test_the_running_mean_leaves_gaps_and_smooths_noise(tmp_path, drawn):
    records = [{"iteration": i, "total_loss": 2.0 * (i % 2)} for i in range(400)]
    records[100]["total_loss"] = math.nan
    few = [{"iteration": 0, "total_loss": 3.0}, {"iteration": 1, "total_loss": 5.0}]
    runs = {"many": write(tmp_path / "many", records), "few": write(tmp_path / "few", few)}
    plot_curves(runs, tmp_path / "out.png")
    logged, smooth, _, two = (line.get_ydata() for line in panel(drawn[0], "Total loss").lines)
    assert np.nanstd(logged) > 0.9
    assert np.flatnonzero(np.isnan(smooth)).tolist() == [100]
    assert np.nanstd(smooth) < 0.25
    assert two.tolist() == [3.0, 5.0]


def test_command_line(tmp_path, capsys):
    run = write(tmp_path / "run", training([19]))
    out = tmp_path / "out.png"
    assert command_line.main([str(run), "--out", str(out), "--labels", "mine"]) == 0
    assert Image.open(out).width == 1600
    assert command_line.main([str(run), "--out", str(out), "--x", "epoch"]) == 2
    assert "iterations_per_epoch" in capsys.readouterr().err
    assert command_line.main([str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line.main([str(run), "--labels", "one", "two"])


def test_bad_runs_are_left_out_and_listed(tmp_path, drawn, capsys):
    good = write(tmp_path / "good", training([19]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.json").write_text("")
    runs = [tmp_path / "nowhere", tmp_path / "empty", good]
    out = ["--out", str(tmp_path / "out.png")]
    assert command_line.main([*map(str, runs), *out]) == 1
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["good"]
    count, *reasons = capsys.readouterr().err.splitlines()
    assert count == "2 files left out:"
    assert ["nowhere" in reasons[0], "empty" in reasons[1]] == [True, True]
    assert command_line.main([*map(str, runs), *out, "--stop-at-first-error"]) == 2
    assert command_line.main([*map(str, runs[:2]), *out]) == 2
    assert command_line.main([*map(str, runs), *out, "--x", "epoch"]) == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    assert len(drawn) == 1
