"""Convert checkpoints of published DETR-family code to this code base's names, and back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import modeling  # noqa: F401  (its methods register their names of parameters)
from ..checkpoint import (
    NAME_MAPS,
    SCORED,
    UNUSED_CLASS_BIAS,
    CheckpointError,
    NameMap,
    coco_class_names,
    convert_class_rows,
    describe_weights,
    detect_format,
    load_checkpoint_file,
    load_weights,
    match_class_rows,
    model_state,
    save_checkpoint_file,
)
from ..config import load_config
from ..engine import ModelDescription
from ..evaluation import best_thresholds, read_summary
from ..projects import load_projects
from ..text import listing
from ..weights_files import sha256_of_file

State = dict[str, torch.Tensor]
Names = list[str | None] | None


def run(args: argparse.Namespace) -> int:
    """Convert a file, and print what was done.

    Raises:
        CheckpointError, ConfigError, OSError: if that is not possible.
    """
    # They register their names of parameters, too.
    load_projects()
    for line in convert(
        args.input,
        args.output,
        args.to,
        args.method,
        args.classes,
        args.drop_training_only,
        args.weights,
        args.config_file,
        args.thresholds,
    ):
        print(line)
    return 0


def convert(
    input: Path,
    output: Path,
    to: str,
    method: str | None,
    classes: str,
    drop_training_only: bool = False,
    weights: str = SCORED,
    config_file: str | None = None,
    thresholds: Path | None = None,
) -> list[str]:
    """Convert one file.

    Args:
        input: file to read.
        output: file to write.
        to: "ours" or "published".
        method: published form, or None to recognise it.
        classes: "keep", "coco80" or "coco91".
        drop_training_only: leave out what inference does not read.
        weights: "scored", or "raw" for those of which a moving average was scored.
        config_file: a config of the model, to describe it in the file; None for none.
        thresholds: a report on these weights, whose best thresholds are put into the file.

    Returns:
        What was done, in lines for a reader.

    Raises:
        CheckpointError: the file can't be read, or can't be converted like this.
        ConfigError: the config's model can't be described.
    """
    if method is not None and method not in NAME_MAPS:
        raise CheckpointError(
            f"There is no published form --method {method}: choose from {', '.join(NAME_MAPS)}."
        )
    if output.suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"OUTPUT must end in .pth or .safetensors, not {output.name!r}.")
    if not output.parent.is_dir():
        raise CheckpointError(f"The folder of OUTPUT does not exist: {output.parent}.")
    if output.exists() and input.exists() and output.samefile(input):
        raise CheckpointError("INPUT and OUTPUT are the same file.")
    if config_file is not None and (to != "ours" or output.suffix != ".safetensors"):
        raise CheckpointError("--config-file is for a .safetensors file with names of ours.")
    if thresholds is not None and (to != "ours" or output.suffix != ".safetensors"):
        raise CheckpointError("--thresholds is for a .safetensors file with names of ours.")
    checkpoint = load_checkpoint_file(input)
    state = model_state(checkpoint, weights)
    form = detect_format(state)
    done = [f"{input}: {len(state)} tensors, {form} names: {describe_weights(checkpoint, weights)}"]
    surplus = [n for n in state if any(known.is_training_only(n) for known in NAME_MAPS.values())]
    if surplus and drop_training_only:
        state = {name: value for name, value in state.items() if name not in surplus}
        done.append(f"left out, as only training reads them: {', '.join(surplus)}")
    elif surplus and to == "published":
        raise CheckpointError(
            f"There are no published names for {', '.join(surplus)}, which only training reads. "
            "--drop-training-only leaves them out."
        )
    name_map = _find_name_map(state, form, method, needed=to == "published" or classes != "keep")
    if form != "ours":
        assert name_map is not None
        dropped = [name for name in state if name_map.is_dropped(name)]
        if dropped:
            done.append(
                f"left out: {len(dropped)} tensors without use here ({', '.join(dropped[:3])})"
            )
        state = name_map.to_ours(state)

    names = _class_names(checkpoint, state, form, name_map)
    if classes != "keep":
        assert name_map is not None
        state, names, line = _convert_classes(state, names, name_map, classes)
        done.append(line)

    content: dict[str, Any]
    if to == "published":
        assert name_map is not None
        content = {"model": name_map.to_published(state)}
        left_out = [
            key for key in _extra_keys(checkpoint) if key != "class_names" or names != _coco(names)
        ]
    else:
        content = {"model": state}
        if names is not None:
            content["class_names"] = names
            if "class_names" not in checkpoint:
                done.append("class names: stored COCO's, as the number of classes suggests")
        left_out = _extra_keys(checkpoint)
        if "description" in checkpoint and classes == "keep":
            content["description"] = checkpoint["description"]
        if config_file is not None:
            content["description"] = _describe(config_file, content)
            done.append(f"described: the model of {config_file}")
        if thresholds is not None:
            content["description"] = _with_thresholds(content, thresholds, input)
            done.append(f"thresholds: the best ones of {thresholds}")
        left_out = [key for key in left_out if key not in content]
    if left_out:
        done.append(f"left out, as only weights are converted: {', '.join(left_out)}")
    save_checkpoint_file(content, output)
    written = name_map.method if to == "published" and name_map else "our"
    done.append(f"{output}: {len(content['model'])} tensors, {written} names")
    return done


def _describe(config_file: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a config's model, which the weights must fill."""
    cfg = load_config(config_file)
    names = content.get("class_names")
    if names is not None:
        cfg.model.num_classes = len(names)
    description = ModelDescription.from_config(cfg)
    model = description.build_model("cpu")
    load_weights(model, content, class_names=names, source="INPUT").require_complete()
    return description.as_data()


def _with_thresholds(content: Mapping[str, Any], report: Path, input: Path) -> dict[str, Any]:
    """Add the best thresholds of a report to the description of its weights.

    Raises:
        CheckpointError: there is no description, or the report is about something else.
        EvaluationError: there is no such report.
    """
    if "description" not in content:
        raise CheckpointError("--thresholds: INPUT does not describe its model: add --config-file.")
    summary = read_summary(report)
    if summary["source"]["weights_sha256"] != sha256_of_file(input):
        about = summary["source"]["weights"] or "weights that are not known"
        raise CheckpointError(
            f"{report} is about {about}, not about {input}: make one with sap-detr eval --weights "
            f"{input} --report REPORT."
        )
    found, names = best_thresholds(summary), content.get("class_names") or []
    if {name for name in names if name is not None} != found.keys():
        raise CheckpointError(
            f"{report} is about the classes {listing(found)}; INPUT has {listing(names) or 'none'}."
        )
    overall = summary["threshold"]["score"]
    thresholds = [found.get(name, overall) for name in names]
    description = ModelDescription.from_data(content["description"])
    return replace(description, thresholds=thresholds).as_data()


def _extra_keys(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return what a checkpoint holds besides its state dict: nothing if it is a bare one."""
    nested = [key for key in ("model", "state_dict") if isinstance(checkpoint.get(key), Mapping)]
    return [key for key in checkpoint if key != nested[0]] if nested else []


def _find_name_map(state: State, form: str, method: str | None, needed: bool) -> NameMap | None:
    """Return the table of the published side."""
    if form != "ours":
        if method not in (None, form):
            raise CheckpointError(f"INPUT has {form} names, not those of --method {method}.")
        return NAME_MAPS[form]
    if method is not None:
        return NAME_MAPS[method]
    if not needed:
        return None
    for name_map in NAME_MAPS.values():
        if all(name_map.published(name) is not None for name in state):
            return name_map
    raise CheckpointError(
        "INPUT has names of ours that belong to no published method; --method METHOD lists which "
        "names it lacks."
    )


def _class_names(
    checkpoint: Mapping[str, Any], state: State, form: str, name_map: NameMap | None
) -> Names:
    """Return the file's class names, else COCO's for published files of 80 or 91 classes."""
    stored = checkpoint.get("class_names")
    if stored is not None:
        return list(stored)
    if form == "ours" or name_map is None:
        return None
    rows = _num_classes(state, name_map)
    return None if rows is None else coco_class_names(rows)


def _coco(names: Names) -> Names:
    return None if names is None else coco_class_names(len(names))


def _num_classes(state: State, name_map: NameMap) -> int | None:
    rows = {len(state[name]) for name in name_map.class_row_names(state)}
    return min(rows) - name_map.no_object_row if rows else None


def _convert_classes(
    state: State, names: Names, name_map: NameMap, classes: str
) -> tuple[State, Names, str]:
    """Select the rows of COCO's 80 ids from 91, or put them back."""
    rows, wanted = _num_classes(state, name_map), int(classes.removeprefix("coco"))
    if rows is None:
        raise CheckpointError(f"INPUT has no class head, so --classes {classes} has no meaning.")
    if names is not None and names != _coco(names):
        raise CheckpointError(
            f"INPUT's classes are not COCO's ({', '.join(map(str, names[:3]))}, ...)."
        )
    if rows == wanted:
        return state, names, f"classes: {rows} already"
    if {rows, wanted} != {80, 91}:
        raise CheckpointError(
            f"--classes {classes} needs a model of 80 or 91 COCO classes; INPUT has {rows}."
        )
    row_names = name_map.class_row_names(state)
    new_names = coco_class_names(wanted)
    match = match_class_rows(new_names, wanted, coco_class_names(rows), rows)
    state = convert_class_rows(state, row_names, match)
    if wanted == 80:
        line = "classes: 91 to 80, the rows of the category ids in use"
    else:
        line = (
            "classes: 80 to 91; the rows of the 11 unused ids can't be recovered and got weights "
            f"0 and bias {UNUSED_CLASS_BIAS:g}"
        )
    return state, new_names, line
