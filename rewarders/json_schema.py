"""Whether the completion is JSON that a schema admits, by jsonschema (https://python-jsonschema.readthedocs.io)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rewarders.extract import Extract, check_extract, extract
from rewarders.killable import Killable
from rewarders.verdicts import answered, for_all, scored, unscored
from swarm.types import Group, Status, Verdict


class JsonSchema:
    """1 where the extracted text is JSON and valid, else 0 with the place and the keyword that it does not meet.

    The schema is `schema`, or else what the prompt's task data has under `column`, as an object or as JSON text; where
    there is none, or it is no schema, all abstain. Beyond Python's reader: NaN, Infinity, numbers beyond float64 and a
    key that stands twice are not JSON. References to other documents are not fetched. `timeout_s` is for one group.
    """

    about_truth = False

    def __init__(
        self,
        *,
        schema: dict[str, Any] | None = None,
        column: str = "schema",
        extract: Extract = "fenced",
        timeout_s: float = 10.0,
    ) -> None:
        check_extract(extract)
        if schema is not None:
            jsonschema: Any = importlib.import_module("jsonschema")
            try:
                jsonschema.validators.validator_for(schema).check_schema(schema)
            except jsonschema.SchemaError as error:
                raise ValueError(f"schema: not a JSON schema: {error.json_path}: {error.message}") from error
        self.name = "json_schema"
        self._schema, self._column = schema, column
        self._extract: Extract = extract
        self._timeout_s = timeout_s
        self.child = Killable("rewarders.child_rules:Schema", memory_mb=4096)

    async def judge(self, group: Group) -> list[Verdict]:
        """One verdict per rollout, in order."""
        schema = self._schema if self._schema is not None else group.prompt.task.get(self._column)
        if not isinstance(schema, (str, Mapping)):
            cause = f"the prompt's task data has no schema under {self._column!r}"
            return for_all(group, unscored(self.name, Status.ABSTAINED, cause))
        schema = schema if isinstance(schema, str) else dict(schema)
        texts = [extract(rollout.text, self._extract) for rollout in group.rollouts]
        jobs = [{"schema": schema, "text": text} for text in texts if text is not None]
        replies = iter(await self.child.ask_each(jobs, self._timeout_s))
        nothing = scored(self.name, 0.0, cause="no answer found")
        return [nothing if text is None else answered(self.name, next(replies)) for text in texts]

    def close(self) -> None:
        """Kill the child."""
        self.child.close()
