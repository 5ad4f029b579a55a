"""docs/spark.md tells the truth of what can be looked up: packages, and an IAM policy that gives no more than it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from upsell_assets.lake.engines.spark_session import PACKAGES
from upsell_assets.model.registry import Registry

PAGE = (Path(__file__).parents[2] / "docs" / "spark.md").read_text(encoding="utf-8")


def test_the_packages_are_the_engine_s() -> None:
    assert re.findall(r"^((?:io|org|software)\.\S+:\S+)$", PAGE, re.MULTILINE) == list(PACKAGES)


def test_the_policy_names_our_prefixes_and_gives_nothing_else() -> None:
    [policy] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    whole, objects = policy["Statement"]
    layers = {"raw", "bronze", "silver", "feature_store", "gold", Registry.prefix.partition("/")[0]}

    assert {statement["Effect"] for statement in policy["Statement"]} == {"Allow"}
    assert whole["Resource"] == "arn:aws:s3:::BUCKET"
    assert all(action.startswith(("s3:List", "s3:Get")) for action in whole["Action"])
    assert set(objects["Resource"]) == {f"arn:aws:s3:::BUCKET/{layer}/*" for layer in layers}
    assert not [
        action for action in objects["Action"] if "*" in action or action.endswith(("Acl", "Version", "Policy"))
    ]
