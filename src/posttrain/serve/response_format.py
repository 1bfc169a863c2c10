"""The `response_format` field: answers that are JSON, or JSON of a schema."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from posttrain.errors import PosttrainError
from posttrain.serve.generation import too_slow
from posttrain.serve.refusal import Refusal, unsupported
from posttrain.serve.schema import ResponseFormat
from posttrain.serve.served import Limits, ServedModel
from posttrain.types import Constraint

_FIELD = "response_format"

_OPTIONS = "x-guidance"
"""Key of a schema with options of the library that compiles it; they could undo the schema."""

_OBJECT = Constraint.json_schema({"type": "object"})


class Forms:
    """Compiles the forms of answers in a thread beside the engine's.

    A form is bounded by the characters of its schema and by the size of its grammar, see
    `posttrain.engines.constraint`, so that no request holds the thread for long.
    """

    def __init__(self, model: ServedModel, limits: Limits) -> None:
        self._compile = model.compile_constraint
        self._limits = limits
        # One thread, so that the engine has the other cores.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forms")

    async def constraint(self, form: ResponseFormat | None) -> Constraint | None:
        """The compiled constraint of a request's answers; None where it asks for text.

        Raises:
            Refusal: 400 for a form that the engine cannot follow, 504 after the server's time.
        """
        if form is None or form.type == "text":
            return None
        if self._compile is None:
            raise unsupported(
                _FIELD,
                f"{_FIELD}: this server does not constrain answers; leave it out, or install "
                "'posttrain[constrained]' on the server",
            )
        constraint = self._constraint(form)
        loop, seconds = asyncio.get_running_loop(), self._limits.timeout_seconds
        compiling = loop.run_in_executor(self._thread, self._compile, constraint)
        try:
            await asyncio.wait_for(compiling, seconds)
        except PosttrainError as error:
            raise Refusal(400, f"{_FIELD}: {error}", param=_FIELD, code="invalid_schema") from error
        except TimeoutError:
            raise too_slow(seconds) from None
        return constraint

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _constraint(self, form: ResponseFormat) -> Constraint:
        if form.json_schema is None:
            return _OBJECT
        schema = form.json_schema.schema_
        if _OPTIONS in schema:
            raise unsupported(
                _FIELD, f"{_FIELD}: the key {_OPTIONS!r} of a schema is not supported; leave it out"
            )
        constraint, limit = Constraint.json_schema(schema), self._limits.max_schema_characters
        if len(constraint.text) > limit:
            raise Refusal(
                400,
                f"{_FIELD}: the schema has {len(constraint.text)} characters; at most {limit} are "
                "allowed",
                param=_FIELD,
                code="invalid_schema",
            )
        return constraint
