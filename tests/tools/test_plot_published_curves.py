"""The published curves of SAM-DETR, alone and with own runs over them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import plot_published_curves as command_line
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sap_detr import model_zoo
from sap_detr.projects.sam_detr.training_curves import (
    METRICS,
    plot_published,
    read_published,
    select_published,
)
from sap_detr.visualization.palette import SERIES_COLORS

EPOCH = 10  # iterations


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, at a low resolution."""
    figures = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **{**kwargs, "dpi": 30})

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def write_run(folder, epochs, logs_epochs=True, **values):
    folder.mkdir(parents=True)
    records = []
    for epoch in range(1, epochs + 1):
        record = {"iteration": epoch * EPOCH - 1, "total_loss": 1.0}
        if logs_epochs:
            record["epoch"] = float(epoch)
        records.append(record | {f"bbox/{name}": value + epoch for name, value in values.items()})
    (folder / "metrics.json").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def named_curves(axes):
    """Label, without its value, to the curve that has this name beside it."""
    legend = axes.get_legend()
    assert len(legend.get_texts()) == len(axes.lines)
    curves = {}
    for text, line in zip(legend.get_texts(), _highest_end_first(axes.lines), strict=True):
        label, _, value = text.get_text().rpartition(" ")
        assert value == f"{line.get_ydata()[-1]:.1f}"
        assert text.get_color() == line.get_color()
        curves[label] = line
    return curves


def _highest_end_first(lines):
    return sorted(lines, key=lambda line: -line.get_ydata()[-1])


def test_every_model_has_its_config_and_all_its_epochs():
    models = read_published()
    assert len(models) == 12
    configs = set(model_zoo.list_configs())
    for name, model in models.items():
        assert f"sam_detr/{name}.py" in configs
        cfg = model_zoo.get_config(f"sam_detr/{name}.py")
        iterations = 118287 // cfg.dataloader.train.total_batch_size
        assert cfg.train.max_iter == model.schedule * iterations
        assert cfg.model.decoder.gaussian == model.smca
        assert cfg.model.backbone.dc5 == (model.variant == "DC5-R50")
        assert (len(cfg.model.neck.in_features) == 3) == (model.variant == "MS-R50")
        logged = 49 if name == "sam_detr_ms_r50_smca_50ep" else model.schedule
        assert model.epochs.tolist() == list(range(1, logged + 1))
        for metric in METRICS:
            assert model.values[metric].shape == (logged,)
            assert ((model.values[metric] > 0) & (model.values[metric] < 70)).all()


def test_logs_end_with_the_published_numbers():
    """Table of the official repository."""
    last = {name: round(model.values["AP"][-1], 1) for name, model in read_published().items()}
    assert last == {
        "sam_detr_r50_12ep": 33.1,
        "sam_detr_r50_smca_12ep": 36.0,
        "sam_detr_dc5_r50_12ep": 38.3,
        "sam_detr_dc5_r50_smca_12ep": 40.6,
        "sam_detr_ms_r50_12ep": 41.1,
        "sam_detr_ms_r50_smca_12ep": 42.8,
        "sam_detr_r50_50ep": 39.8,
        "sam_detr_r50_smca_50ep": 41.8,
        "sam_detr_dc5_r50_50ep": 43.3,
        "sam_detr_dc5_r50_smca_50ep": 45.0,
        "sam_detr_ms_r50_50ep": 46.1,
        "sam_detr_ms_r50_smca_50ep": 47.1,
    }


def test_selection():
    assert len(select_published()) == 12
    assert {model.schedule for model in select_published(["12"])} == {12}
    chosen = select_published(["sam_detr_dc5_r50_50ep", "sam_detr_r50_12ep"])
    assert [model.config for model in chosen] == ["sam_detr_r50_12ep", "sam_detr_dc5_r50_50ep"]
    assert len(select_published(["50", "sam_detr_r50_12ep", "sam_detr_r50_50ep"])) == 7


def test_the_picture_has_a_panel_for_each_schedule(tmp_path, drawn):
    out = tmp_path / "new" / "out.png"
    assert command_line.main(["--out", str(out)]) == 0
    assert Image.open(out).width == 300
    panels = drawn[0].axes
    assert [axes.get_title("left") for axes in panels] == ["12 epochs", "50 epochs"]
    assert [axes.get_xlim() for axes in panels] == [(0, 12), (0, 50)]
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[0].get_ylabel() == "box AP on COCO val2017, in %"
    for schedule, axes in zip((12, 50), panels, strict=True):
        curves = named_curves(axes)
        assert len(curves) == 6
        for model in select_published([str(schedule)]):
            line = curves[model.label]
            np.testing.assert_array_equal(line.get_ydata(), model.values["AP"])
            np.testing.assert_array_equal(line.get_xdata(), model.epochs)
            color = {"R50": 0, "DC5-R50": 1, "MS-R50": 2}[model.variant]
            assert line.get_color() == SERIES_COLORS[color]
            assert line.get_linestyle() == ("-" if model.smca else "--")


def test_names_of_the_curves_do_not_overlap(tmp_path, drawn):
    assert command_line.main(["--out", str(tmp_path / "out.png")]) == 0
    figure = drawn[0]
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.get_legend().get_texts()]
        assert len(boxes) == 6
        boxes.sort(key=lambda box: box.y0)
        for lower, upper in pairwise(boxes):
            assert lower.y1 <= upper.y0
        for box in boxes:
            assert figure.bbox.x0 <= box.x0
            assert box.x1 <= figure.bbox.x1


def test_runs_are_drawn_as_far_as_a_panel_goes(tmp_path, drawn):
    short = write_run(tmp_path / "short", 3, AP=10.0, APs=0.0)
    long = write_run(tmp_path / "long", 60, AP=0.5, APs=0.0)
    runs = [str(short), str(long / "metrics.json")]
    assert command_line.main([*runs, "--out", str(tmp_path / "out.png")]) == 0
    first, second = (named_curves(axes) for axes in drawn[0].axes)
    assert first["short"].get_xdata().tolist() == [1, 2, 3]
    assert first["short"].get_ydata().tolist() == [11, 12, 13]
    assert first["long"].get_xdata().tolist() == list(range(1, 13))
    assert second["long"].get_xdata().tolist() == list(range(1, 61))
    assert drawn[0].axes[1].get_xlim() == (0, 60)
    taken = {line.get_color() for name, line in first.items() if name not in ("short", "long")}
    own = {first["short"].get_color(), first["long"].get_color()}
    assert len(own) == 2
    assert not own & taken
    # Nobody knows what the run was evaluated on.
    assert drawn[0].axes[0].get_ylabel() == "box AP, in %"


def test_more_runs_than_colours_differ_by_their_dash(tmp_path, drawn):
    runs = {str(n): write_run(tmp_path / str(n), 2, AP=float(n)) for n in range(5)}
    plot_published(tmp_path / "out.png", select_published(["sam_detr_r50_12ep"]), runs=runs)
    own = [line for line in drawn[0].axes[0].lines if line.get_linewidth() > 2]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in own}
    assert len(looks) == 5


def test_another_metric_and_labels(tmp_path, drawn):
    run = write_run(tmp_path / "run", 2, logs_epochs=False, AP=10.0, APs=5.0)
    options = ["--models", "sam_detr_r50_12ep", "--metric", "APs", "--labels", "with my data"]
    steps = ["--iterations-per-epoch", str(EPOCH // 2)]
    assert command_line.main([str(run), "--out", str(tmp_path / "o.png"), *options, *steps]) == 0
    [axes] = drawn[0].axes
    curves = named_curves(axes)
    assert set(curves) == {"R50", "with my data"}
    assert curves["R50"].get_ydata()[-1] == 13.928
    assert curves["with my data"].get_ydata().tolist() == [6, 7]
    assert curves["with my data"].get_xdata().tolist() == [2, 4]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--models", "12", "sam_detr_r101_12ep"], "no published model sam_detr_r101_12ep"),
        (["untested"], "has no bbox/AP"),
        (["diverged"], "has no bbox/AP"),
        (["no_epochs"], "give iterations_per_epoch"),
        (["no_epochs", "--iterations-per-epoch", "0"], "must be positive"),
        (["nowhere"], "there are no metrics"),
        (["good", "--metric", "APl"], "has no bbox/APl"),
    ],
)
def test_what_can_not_be_drawn_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good", 2, AP=10.0)
    write_run(tmp_path / "untested", 2)
    write_run(tmp_path / "diverged", 2, AP=float("nan"))
    write_run(tmp_path / "no_epochs", 2, logs_epochs=False, AP=10.0)
    assert command_line.main([*arguments, "--out", "out.png"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


def test_arguments_that_do_not_fit(tmp_path):
    run = str(write_run(tmp_path / "run", 2, AP=10.0))
    for arguments in (
        [run, "--labels", "one", "two"],
        ["--labels", "one"],
        ["--metric", "AR"],
        [run, "--iterations-per-epoch", "1", "2"],
    ):
        with pytest.raises(SystemExit, match="2"):
            command_line.main(arguments)
    with pytest.raises(ValueError, match="metric must be one of"):
        plot_published(tmp_path / "out.png", select_published(), metric="AR")


def test_table_is_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "published_table", lambda: "| the table |")
    assert command_line.main(["--table"]) == 0
    assert capsys.readouterr().out == "| the table |\n"
    assert not list(tmp_path.iterdir())


def test_bad_runs_are_left_out_and_listed(tmp_path, drawn, capsys):
    runs = [tmp_path / "nowhere", write_run(tmp_path / "good", 3, AP=10.0)]
    args = [*map(str, runs), "--models", "12", "--out", str(tmp_path / "out.png")]
    assert command_line.main(args) == 1
    assert named_curves(drawn[0].axes[0])["good"].get_ydata().tolist() == [11, 12, 13]
    count, reason = capsys.readouterr().err.splitlines()
    assert count == "1 file left out:"
    assert "nowhere" in reason
    assert command_line.main([*args, "--stop-at-first-error"]) == 2
    assert len(drawn) == 1
