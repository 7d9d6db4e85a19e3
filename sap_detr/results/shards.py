"""Which pictures of a job are this process's."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..config import ConfigError
from ..engine.topology import find_topology

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """One of several equal shares.

    Attributes:
        number: from 1 to ``count``.
        count: how many there are.
    """

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``I/N``.

        Raises:
            ConfigError: it is something else.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard {text} is not I/N with I from 1 to N, such as 3/8")
        return cls(int(match[1]), int(match[2]))

    def within(self, environ: Mapping[str, str]) -> tuple[Shard, int | None]:
        """Divide this share among the processes that torchrun or srun started.

        Args:
            environ: environment variables.

        Returns:
            The share of this process, and its number on its machine; None if it is alone.

        Raises:
            ConfigError: the variables contradict one another.
        """
        unset = ("num_gpus", "num_machines", "machine_rank", "dist_url")
        topology = find_topology(argparse.Namespace(**dict.fromkeys(unset)), environ)
        size = topology.world_size
        own = Shard((self.number - 1) * size + topology.rank + 1, self.count * size)
        return own, topology.local_rank

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Take every ``count``-th item, so that shares are as alike as neighbours are."""
        return items[self.number - 1 :: self.count]
