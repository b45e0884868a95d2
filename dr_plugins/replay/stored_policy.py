"""The policy of a shard set, which defines its records' parameters."""

from __future__ import annotations

from dr_plugins.errors import FormatError
from dr_plugins.policies.policy import Policy
from dr_plugins.shards.reader import ShardSet


def stored_policy(shards: ShardSet) -> Policy:
    """Return the policy that a shard set was made with.

    Raises:
        PolicyError: This version does not support one of its transforms.
        FormatError: The records' parameters are not those of the policy.

    Example:
        >>> stored_policy(ShardSet("imagenet-plus")).view_size              # doctest: +SKIP
        (224, 224)
    """
    policy = Policy.from_config(shards.manifest.settings["policy"])
    stored = shards.manifest.layout.parameters
    if policy.fields != stored:
        raise FormatError(
            f"{shards.location}: the policy stores {[f.name for f in policy.fields]}, the "
            f"records hold {[f.name for f in stored]}. Copy the manifest again."
        )
    return policy
