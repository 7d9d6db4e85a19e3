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
    CheckpointError,
    NameMap,
    coco_class_names,
    load_checkpoint_file,
    load_weights,
    save_checkpoint_file,
)
from ..checkpoint.class_rows import UNUSED_CLASS_BIAS, convert_class_rows, match_class_rows
from ..checkpoint.name_map import detect_format
from ..checkpoint.weight_sets import describe_weights, model_state
from ..config import load_config
from ..engine import ModelDescription
from ..evaluation import best_thresholds, read_summary
from ..projects import load_projects
from ..text import listing
from ..weights_files import find_weights, sha256_of_file

State = dict[str, torch.Tensor]
Names = list[str | None] | None


def run(args: argparse.Namespace) -> int:
    """Convert a file, and print what was done.

    Raises:
        CheckpointError: the file can't be read, or can't be converted like this.
        ConfigError: the config's model can't be described.
        OSError: the output can't be written.
    """
    # They register their names of parameters, too.
    load_projects()
    args.input = find_weights(args.input)
    _check_arguments(args)
    checkpoint = load_checkpoint_file(args.input)
    state = model_state(checkpoint, args.weights)
    form = detect_format(state)
    which = describe_weights(checkpoint, args.weights)
    done = [f"{args.input}: {len(state)} tensors, {form} names: {which}"]
    surplus = [n for n in state if any(known.is_training_only(n) for known in NAME_MAPS.values())]
    if surplus and args.drop_training_only:
        state = {name: value for name, value in state.items() if name not in surplus}
        done.append(f"left out, as only training reads them: {', '.join(surplus)}")
    elif surplus and args.to == "published":
        raise CheckpointError(
            f"There are no published names for {', '.join(surplus)}, which only training reads. "
            "--drop-training-only leaves them out."
        )
    names: Names = checkpoint.get("class_names")
    names = None if names is None else list(names)
    name_map = _find_name_map(state, form, args)
    if name_map is not None and form != "ours":
        dropped = [name for name in state if name_map.is_dropped(name)]
        if dropped:
            done.append(
                f"left out: {len(dropped)} tensors without use here ({', '.join(dropped[:3])})"
            )
        state = name_map.to_ours(state)
        if names is None:
            names = coco_class_names(_num_classes(state, name_map))
    if name_map is not None and args.classes != "keep":
        state, names, line = _convert_classes(state, names, name_map, args.classes)
        done.append(line)

    content: dict[str, Any] = {"model": state}
    kept = {"class_names"} if _are_coco(names) else set()
    written = "our"
    if name_map is not None and args.to == "published":
        content["model"] = name_map.to_published(state)
        written = name_map.method
    else:
        if names is not None:
            content["class_names"] = names
            if "class_names" not in checkpoint:
                done.append("class names: stored COCO's, as the number of classes suggests")
        if "description" in checkpoint and args.classes == "keep":
            content["description"] = checkpoint["description"]
        if args.config_file is not None:
            content["description"] = _describe(args.config_file, content)
            done.append(f"described: the model of {args.config_file}")
        if args.thresholds is not None:
            content["description"] = _with_thresholds(content, args.thresholds, args.input)
            done.append(f"thresholds: the best ones of {args.thresholds}")
    left_out = [key for key in _extra_keys(checkpoint) if key not in content.keys() | kept]
    if left_out:
        done.append(f"left out, as only weights are converted: {', '.join(left_out)}")
    save_checkpoint_file(content, args.output)
    print(*done, f"{args.output}: {len(content['model'])} tensors, {written} names", sep="\n")
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuse what is known to be impossible before anything is read."""
    if args.method is not None and args.method not in NAME_MAPS:
        raise CheckpointError(
            f"There is no published form --method {args.method}: choose from "
            f"{', '.join(NAME_MAPS)}."
        )
    output = args.output
    if output.suffix not in (".pth", ".safetensors"):
        raise CheckpointError(f"OUTPUT must end in .pth or .safetensors, not {output.name!r}.")
    if not output.parent.is_dir():
        raise CheckpointError(f"The folder of OUTPUT does not exist: {output.parent}.")
    if output.exists() and args.input.exists() and output.samefile(args.input):
        raise CheckpointError("INPUT and OUTPUT are the same file.")
    for option, given in (("config-file", args.config_file), ("thresholds", args.thresholds)):
        if given is not None and (args.to != "ours" or output.suffix != ".safetensors"):
            raise CheckpointError(f"--{option} is for a .safetensors file with names of ours.")


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


def _find_name_map(state: State, form: str, args: argparse.Namespace) -> NameMap | None:
    """Return the table of the published side; None if none is needed."""
    if form != "ours":
        if args.method not in (None, form):
            raise CheckpointError(f"INPUT has {form} names, not those of --method {args.method}.")
        return NAME_MAPS[form]
    if args.method is not None:
        return NAME_MAPS[args.method]
    if args.to == "ours" and args.classes == "keep":
        return None
    for name_map in NAME_MAPS.values():
        if all(name_map.published(name) is not None for name in state):
            return name_map
    raise CheckpointError(
        "INPUT has names of ours that belong to no published method; --method METHOD lists which "
        "names it lacks."
    )


def _are_coco(names: Names) -> bool:
    """Whether classes are COCO's, as far as they are named."""
    return names is None or names == coco_class_names(len(names))


def _num_classes(state: State, name_map: NameMap) -> int:
    """Return the number of classes; 0 without a class head."""
    rows = {len(state[name]) for name in name_map.class_row_names(state)}
    return min(rows) - name_map.no_object_row if rows else 0


def _convert_classes(
    state: State, names: Names, name_map: NameMap, classes: str
) -> tuple[State, Names, str]:
    """Select the rows of COCO's 80 ids from 91, or put them back."""
    rows, wanted = _num_classes(state, name_map), int(classes.removeprefix("coco"))
    if not rows:
        raise CheckpointError(f"INPUT has no class head, so --classes {classes} has no meaning.")
    if not _are_coco(names):
        raise CheckpointError(f"INPUT's classes are not COCO's ({listing(names or (), 3)}).")
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
