"""How many parameters a model has, in total and part by part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from .building import build_without_weights
from .tables import Columns, Record, cell, part_names, record_table


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model or of a part of it. Buffers, such as frozen batch norm's, are none.

    Attributes:
        total: all of them, each counted once however many modules share it.
        trained: those of them that require a gradient.
    """

    total: int
    trained: int


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a model; works on the meta device as well."""
    return _count(model.parameters())


def _count(parameters: Iterable[nn.Parameter]) -> ParameterCount:
    sizes = [(p.numel(), p.requires_grad) for p in parameters]
    return ParameterCount(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained))


def count_parameters_by_part(model: nn.Module, depth: int = 1) -> dict[str, ParameterCount]:
    """Count the parameters of each part of a model.

    Args:
        model: the model.
        depth: 1 for the model's own children (backbone, neck, encoder, decoder), 2 for their
            children, and so on. A parameter that lies less deep counts for the module it is in.

    Returns:
        Dotted module name ("" is the model itself) to its count, in the order of the model, without
        parts that have no parameters. A parameter of several parts counts for the first, so that
        the counts add up to those of the model.

    Raises:
        ValueError: if ``depth`` is less than 1.
    """
    parts: defaultdict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        parts[part_of(name.rpartition(".")[0], depth)].append(parameter)
    return {part: _count(parameters) for part, parameters in parts.items()}


def part_of(name: str, depth: int) -> str:
    """Return the part that a module belongs to: the first ``depth`` pieces of its dotted name.

    Raises:
        ValueError: if ``depth`` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return ".".join(name.split(".")[:depth])


def parameter_record(
    config: str, num_classes: int | None = None, overrides: Sequence[str] = (), depth: int = 1
) -> Record:
    """Count the parameters of a config; see :func:`build_without_weights` for arguments.

    Returns:
        ``config``, ``classes``, ``total``, ``trained``, and ``parts`` with both for each part down
        to ``depth``.
    """
    model, classes = build_without_weights(config, num_classes, overrides)
    parts = count_parameters_by_part(model, depth)
    return {
        "config": config,
        "overrides": list(overrides),
        "classes": classes,
        **asdict(count_parameters(model)),
        "parts": {name: asdict(count) for name, count in parts.items()},
    }


def parameter_table(records: Sequence[Record], tablefmt: str = "simple") -> str:
    """Format what :func:`parameter_record` returned; ``tablefmt`` is tabulate's."""
    number = "{:,}".format
    columns: Columns = {
        "config": cell("config"),
        "classes": lambda record: str(record["classes"] or ""),
        "parameters": cell("total", form=number),
        "trained": cell("trained", form=number),
    }
    names = part_names(record["parts"] for record in records)
    parts = {n or "(own)": cell("parts", n, "total", form=number, missing="0") for n in names}
    return record_table(records, {**columns, **parts}, tablefmt)
