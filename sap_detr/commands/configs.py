"""List the configs that come with the package, or print one with all its keys."""

from __future__ import annotations

import argparse

from ..config_files import ConfigError, list_configs


def run(args: argparse.Namespace) -> int:
    """List names, or print a config.

    Raises:
        ConfigError: if no name has what is looked for, or a config or its key is not there.
        FileNotFoundError: if there is no such config.
    """
    if args.action == "list":
        names = [name for name in list_configs() if args.part in name]
        if not names:
            raise ConfigError(f"no config has {args.part!r} in its name: leave it out to see all")
        print("\n".join(names))
    else:
        print(config_text(args.config_file, args.key, args.opts), end="")
    return 0


def config_text(name: str, key: str | None, overrides: list[str]) -> str:
    """Return a config, or a part of one, as YAML.

    Args:
        name: a file, or the name of a config.
        key: of the part, such as ``model.decoder``; None for all.
        overrides: changes to it.

    Raises:
        ConfigError: if there is no such key.
        FileNotFoundError: if there is no such config.
    """
    # Names are listed without waiting for these.
    from omegaconf import DictConfig, OmegaConf

    from ..config import load_config

    cfg = load_config(name, overrides)
    if key is None:
        return str(OmegaConf.to_yaml(cfg))
    missing = object()
    part = OmegaConf.select(cfg, key, default=missing)
    if part is missing:
        raise ConfigError(f"--key: there is no key {key!r} in {name}; it has {', '.join(cfg)}")
    if not isinstance(part, DictConfig):
        part = OmegaConf.create({key: part})
    return str(OmegaConf.to_yaml(part))
