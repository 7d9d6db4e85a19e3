"""Breaks training runs on purpose and looks whether anything was lost."""

from .comparison import Difference, first_difference
from .damage import damage_campaign
from .disk import full_disk_campaign
from .kills import kill_campaign
from .soak import soak
from .training import CampaignError, Training, TrainingCommand, tiny_overrides

__all__ = [
    "CampaignError",
    "Difference",
    "Training",
    "TrainingCommand",
    "damage_campaign",
    "first_difference",
    "full_disk_campaign",
    "kill_campaign",
    "soak",
    "tiny_overrides",
]
