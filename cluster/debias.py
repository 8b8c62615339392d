"""What an accuracy would be without its rewarder's errors, as far as they were known before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.statistics import Estimate, rogan_gladen
from rewarders.channels import Channels
from swarm.config import ChannelsSection


def corrected_accuracy(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Estimate | None:
    """Of an evaluation, by the channels of its resolved recipe; None without rates, or with several rewarders, whose
    sum has no channel. What the run itself learned of its rewarders is not in its folder, and not counted."""
    rewarders = config.get("rewarders", {})
    use = rewarders.get("use", [])
    if "channels" not in rewarders or len(use) != 1 or not evaluation.get("questions"):
        return None
    try:
        channels = Channels(ChannelsSection.model_validate(rewarders["channels"]))
        if channels.rates(use[0]["name"]) is None:
            return None
        channel = channels.channel(use[0]["name"])
        found = rogan_gladen(
            evaluation["accuracy"] * evaluation["questions"],
            evaluation["questions"],
            wrong=channel.false_accept.observations,
            accepted_wrong=channel.false_accept.errors,
            right=channel.false_reject.observations,
            rejected_right=channel.false_reject.errors,
        )
    except ValueError:  # a certificate that has gone, or rates that leave nothing
        return None
    return replace(found, label=f"{found.label}, rates known before the run")
