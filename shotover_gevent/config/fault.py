"""What is wrong with a value, in our sentences: what was found, what was wanted, a way out.

pydantic checks the values; its errors are turned into faults here. A fault knows the way from the
value that was checked, not yet the place in a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from shotover_gevent.chain.build import raised_at, raised_text
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.document import MAX_SHOWN, Path
from shotover_gevent.errors import ShotoverError

# The type of the pydantic error that carries a fault up through an outer model.
_CARRIER = "shotover_gevent_fault"

M = TypeVar("M", bound=BaseModel)

_WANTED = {
    "bool_type": "true or false",
    "dict_type": "a map",
    "float_type": "a number",
    "int_type": "an integer",
    "list_type": "a list",
    "model_type": "a map",
    "none_required": "null",
    "string_type": "a text",
    "tuple_type": "a list",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "a text of at least {min_length} characters",
    "string_too_long": "a text of at most {max_length} characters",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at ``path``; ``of_key`` when it is the key that is wrong, ``wants_text`` when
    a text was wanted."""

    path: Path
    message: str
    suggestion: str | None = None
    of_key: bool = False
    wants_text: bool = False

    def below(self, *prefix: str | int) -> Fault:
        """The same, seen from further up."""
        return replace(self, path=(*prefix, *self.path))


class Faults(ShotoverError):
    """A value cannot be used; everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = tuple(faults)

    def carried(self) -> ValidationError:
        """The same as an error of pydantic, which adds the way to here."""
        return ValidationError.from_exception_data("chain", [
            InitErrorDetails(
                type=PydanticCustomError(_CARRIER, "{message}", {
                    "message": fault.message, "fault": fault}),
                loc=fault.path, input=None)
            for fault in self.faults
        ])


def raised(what: str, kind: type[TransformConfig], error: Exception) -> tuple[str, str]:
    """A problem, and a way out, for code of a transform that raised what it should not."""
    place = raised_at(kind, error)
    where = f" at {place}" if place else ""
    return raised_text(what, error), (
        f"the code of {kind.__name__} failed{where}: mend that, or what it needs, or take the entry out")


def validate(model: type[M], data: Any, context: Any = None) -> M:
    """``data`` as a ``model``; null is as good as absent where a field may be absent.

    Such nulls are taken out of ``data``. Raises :class:`Faults`.
    """
    while True:
        try:
            return model.model_validate(data, context=context)
        except ValidationError as error:
            details = error.errors(include_url=False)
            if not _drop_nulls(model, data, details):
                raise Faults([_fault(model, data, detail) for detail in details]) from error


def _drop_nulls(model: type[BaseModel], data: Any, details: Sequence[Any]) -> bool:
    """Take out the nulls that pydantic complained of and that may be absent."""
    dropped = False
    for detail in details:
        path = detail["loc"]
        if detail["input"] is None and path and detail["type"] not in (_CARRIER, "missing"):
            owner = _at(data, path[:-1])
            field = _field(model, path)
            if _is_optional(field) and isinstance(owner, dict) and path[-1] in owner:
                del owner[path[-1]]
                dropped = True
    return dropped


def _is_optional(field: FieldInfo | None) -> bool:
    return field is not None and not field.is_required()


def _fault(model: type[BaseModel], data: Any, detail: Any) -> Fault:
    kind, path = detail["type"], _real_path(data, detail)
    if kind == _CARRIER:
        return replace(detail["ctx"]["fault"], path=path)
    if kind == "missing":
        return Fault(path, "missing field", of_key=True)
    if kind == "extra_forbidden":
        return _unknown_field(model, data, path)
    if kind in ("value_error", "assertion_error"):
        return Fault(path, str(detail["ctx"]["error"]))
    found = describe(detail["input"])
    if kind in _WANTED:
        wanted = _WANTED[kind].format(**detail.get("ctx", {}))
        suggestion = _way_out(kind, detail["input"])
        return Fault(path, f"found {found}, wanted {wanted}", suggestion,
                     wants_text=kind == "string_type")
    if kind in ("literal_error", "enum"):
        return _not_one_of(path, detail)
    said = detail["msg"]
    return Fault(path, f"found {found}: {said[:1].lower()}{said[1:]}")


def _unknown_field(model: type[BaseModel], data: Any, path: Path) -> Fault:
    owner = _at(data, path[:-1])
    known = [name for m in _models_at(model, path[:-1]) for name in m.model_fields]
    free = [name for name in known if name not in owner] if isinstance(owner, dict) else known
    suggestion = did_you_mean(str(path[-1]), free) or f"known fields: {', '.join(known)}"
    return Fault(path, "unknown field", suggestion, of_key=True)


def _not_one_of(path: Path, detail: Any) -> Fault:
    expected = re.findall(r"'([^']*)'", detail["ctx"]["expected"]) or [detail["ctx"]["expected"]]
    close = did_you_mean(str(detail["input"]), expected)
    return Fault(
        path, f"found {describe(detail['input'])}, wanted one of {', '.join(expected)}", close)


def _way_out(kind: str, value: Any) -> str | None:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "put it in quotes"
    if kind == "int_type" and isinstance(value, str) and re.fullmatch("-?[0-9]{1,20}", value):
        return f"write {int(value)}, without quotes or leading zeros"
    if kind == "bool_type" and isinstance(value, str):
        meant = {"yes": "true", "on": "true", "true": "true",
                 "no": "false", "off": "false", "false": "false"}.get(value.lower())
        return f"write {meant}" if meant else None
    return None


def did_you_mean(found: str, known: Sequence[str]) -> str | None:
    """A suggestion, if one of the known names is close."""
    close = get_close_matches(found, known, n=1)
    return f'did you mean "{close[0]}"?' if close else None


def describe(value: Any) -> str:
    """A value of a YAML file in a sentence."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        shown = value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "..."
        return f"the text {json.dumps(shown, ensure_ascii=False)}"
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _real_path(data: Any, detail: Any) -> Path:
    """The way through the data: what pydantic puts in for unions and keys is left out."""
    path: list[str | int] = []
    *owners, last = detail["loc"] or (None,)
    for part in owners:
        if _has(data, part):
            path.append(part)
            data = data[part]
    if last is not None and (detail["type"] in ("missing", _CARRIER) or _has(data, last)):
        path.append(last)
    return tuple(path)


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data)


def _at(data: Any, path: Path) -> Any:
    for part in path:
        if _has(data, part):
            data = data[part]
    return data


def _field(model: type[BaseModel], path: Path) -> FieldInfo | None:
    for owner in _models_at(model, path[:-1]):
        if path[-1] in owner.model_fields:
            return owner.model_fields[str(path[-1])]
    return None


def _models_at(model: type[BaseModel], path: Path) -> list[type[BaseModel]]:
    """The models that describe the map at ``path``; list indices and map keys lead nowhere else."""
    models = [model]
    for part in path:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        if fields:
            models = [found for field in fields for found in _mentioned(field.annotation)]
    return models


def _mentioned(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, at any depth of lists, maps and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _mentioned(argument)
