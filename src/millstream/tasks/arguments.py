"""Arguments and results as bytes, checked against the annotations of the function.

A call is stored as a MessagePack map of parameter names to values, without those that were left to their defaults: the
worker's release decides the defaults, and a parameter that a newer release added does not break older messages. What is
stored is read back before it is sent, by the same decoder as the worker's: what passes here will be understood there.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never, NoReturn, Union

import msgspec
import msgspec.inspect

from millstream.primitives.errors import ConfigurationError, PayloadError, TaskArgumentError
from millstream.tasks.frames import from_extension, to_extension
from millstream.tasks.limits import ARGUMENT_BYTES_MAX, RESULT_BYTES_MAX, SENT_NAMES_MAX
from millstream.tasks.shape import Shape, shape_of

_STORABLE = "numbers, text, bytes, times, enums, paths, lists, sets, dicts, dataclasses, structs, models or tables"
_UNSTORABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def to_plain(value: Any) -> Any:  # noqa: ANN401 - called by msgspec for what it does not know
    """Return plain data for a path, a table or a pydantic model. Raises NotImplementedError for others."""
    if isinstance(value, pathlib.PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)  # A pydantic model, without importing pydantic.
    if callable(dump):
        return dump(mode="python")
    table = to_extension(value)
    if table is not None:
        return table
    raise NotImplementedError(f"a {type(value).__name__} cannot be stored")


def from_plain(kind: type, value: Any) -> Any:  # noqa: ANN401 - as above
    """Return a path or a pydantic model of plain data; tables are there already. Raises NotImplementedError."""
    if isinstance(value, kind):
        return value
    if issubclass(kind, pathlib.PurePath) and isinstance(value, str):
        return kind(value)
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise NotImplementedError(f"a {type(value).__name__} cannot be read as a {kind.__name__}")


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_encoder = msgspec.msgpack.Encoder(enc_hook=to_plain)
_any_decoder = msgspec.msgpack.Decoder(ext_hook=from_extension)
_by_position_decoder = msgspec.msgpack.Decoder(
    tuple[list[Any], dict[str, Any]], ext_hook=from_extension
)
_BY_POSITION = b"\x92"
"""What a call begins with that was sent by name alone: an array of two. All others are maps."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the function."""

    name: str
    kind: inspect._ParameterKind
    required: bool


class Arguments:
    """The parameters of one function: binds calls, stores them, reads them back. Immutable, any thread."""

    def __init__(self, shape: Shape) -> None:
        """Prepare to store calls of that shape. Raises ConfigurationError for types that cannot be stored."""
        self.task = shape.task
        self._signature = shape.signature
        self.parameters = tuple(
            Parameter(p.name, p.kind, p.default is p.empty and not _is_variadic(p.kind))
            for p in self._signature.parameters.values()
        )
        self._plain = all(
            p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in self.parameters
        )
        self._struct = _struct_of(self.parameters, shape.hints, shape.task)
        self._decoder = _decoder_of(self._struct)

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Return the stored form of a call. Raises TaskArgumentError for one that the function would refuse."""
        bound = self._bind(args, kwargs)
        try:
            data = _encoder.encode(bound)
        except (*_UNSTORABLE, NotImplementedError) as error:
            raise TaskArgumentError(
                f"an argument cannot be stored: {error}",
                where=f"task {self.task!r}",
                expected=_STORABLE,
                next_step="pass plain data, or the id of what is stored elsewhere",
            ) from error
        if len(data) > ARGUMENT_BYTES_MAX:
            raise TaskArgumentError(
                f"the arguments take {len(data):,} bytes",
                where=f"task {self.task!r}",
                expected=f"at most {ARGUMENT_BYTES_MAX:,} bytes",
                next_step="store the data in a file or a topic, and pass its name",
            )
        self._read(data)
        return data

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of each parameter, defaults too. Raises TaskArgumentError."""
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise self._misfit(error) from error
        bound.apply_defaults()
        return dict(bound.arguments)

    def names_given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> set[str]:
        """Return the parameters that a call has values for, which may be too few. Raises TaskArgumentError."""
        try:
            return set(self._signature.bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise self._misfit(error) from error

    def by_name(self) -> dict[str, msgspec.inspect.Type]:
        """Return what each parameter takes that can be given by its name."""
        info = msgspec.inspect.type_info(self._struct)
        assert isinstance(info, msgspec.inspect.StructType)
        takes = {field.name: field.type for field in info.fields}
        return {p.name: takes[p.name] for p in self.parameters if p.kind in _BY_NAME}

    @property
    def takes_any_name(self) -> bool:
        """Whether there is a ``**`` parameter."""
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self.parameters)

    def __str__(self) -> str:
        """Return the task with its parameters, as it is called."""
        return f"{self.task}{self._signature}"

    def decode(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return positional and keyword arguments of a stored call. Raises TaskArgumentError when they do not fit."""
        if data[:1] == _BY_POSITION:
            data = self.encode(*_read_by_position(data, self.task))
        given = {
            name: value
            for name, value in msgspec.structs.asdict(self._read(data)).items()
            if value is not msgspec.UNSET
        }
        return ([], given) if self._plain else self._spread(given)

    def _spread(self, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for position, parameter in enumerate(self.parameters):
            if parameter.name not in given:
                continue
            value = given[parameter.name]
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY or len(args) < position:
                kwargs[parameter.name] = value  # By position only while all before it were given.
            else:
                args.append(value)
        return args, kwargs

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> msgspec.Struct:
        try:
            if (
                self._plain
            ):  # The constructor of the struct binds in C, ten times as fast as inspect.
                return self._struct(*args, **kwargs)
            return self._struct(**self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise self._misfit(error) from error

    def _misfit(self, error: TypeError) -> TaskArgumentError:
        return TaskArgumentError(
            f"the call does not fit the task: {error}",
            where=f"task {self.task!r}",
            expected=str(self),
            next_step="call it as its signature says",
        )

    def _read(self, data: bytes) -> msgspec.Struct:
        try:
            stored: msgspec.Struct = self._decoder.decode(data)
        except (*_UNSTORABLE, NotImplementedError) as error:
            raise TaskArgumentError(
                f"an argument does not fit its annotation: {error}",
                where=f"task {self.task!r}",
                expected=str(self),
                next_step="pass a value of that type, or change the annotation",
            ) from error
        return stored


class AnyArguments(Arguments):
    """The parameters of a task that is not known here: its calls are stored by position and name, as they are given."""

    def __init__(self, task: str) -> None:
        """Take any arguments."""
        super().__init__(shape_of(_anything, task=task))

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Return the stored form of a call that the worker will check. Raises TaskArgumentError."""
        plain = decode_plain(super().encode(args, kwargs))
        return _encoder.encode([plain.get("args", []), plain.get("kwargs", {})])


@functools.lru_cache(maxsize=SENT_NAMES_MAX)
def any_arguments(task: str) -> AnyArguments:
    """Return the parameters of a task that is not known here; making them costs more than sending a call."""
    return AnyArguments(task)


def _anything(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - stands for every function
    """Stand for a function that is not known here."""


def _read_by_position(data: bytes, task: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        args, kwargs = _by_position_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise TaskArgumentError(
            f"the stored call cannot be read: {error}",
            where=f"task {task!r}",
            expected="positional and keyword arguments",
            next_step="send it with a release that the worker knows",
        ) from error
    return args, kwargs


class Returned:
    """The result of one function: stored, read back by its annotation. Immutable, any thread."""

    def __init__(self, shape: Shape) -> None:
        """Prepare to store results of that shape. Raises ConfigurationError for a type that cannot be stored."""
        self.task = shape.task
        self._kind = Any if shape.returns in (NoReturn, Never) else shape.returns
        try:
            self._decoder = _decoder_of(self._kind)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"the result of the task cannot be stored: {error}",
                where=f"task {self.task!r}",
                expected=_STORABLE,
                next_step="change the return annotation, or leave it out for any plain value",
            ) from error

    def encode(self, value: object) -> bytes:
        """Return the stored form. Raises PayloadError when it cannot be stored, or is not what the task promises."""
        try:
            data = _encoder.encode(value)
            self._decoder.decode(data)
        except (*_UNSTORABLE, NotImplementedError) as error:
            raise PayloadError(
                f"the result, a {type(value).__name__}, cannot be stored: {error}",
                where=f"task {self.task!r}",
                expected=f"{_name_of(self._kind)}: {_STORABLE}",
                next_step="return plain data of the annotated type, or the place where the result was put",
            ) from error
        if len(data) > RESULT_BYTES_MAX:
            raise PayloadError(
                f"the result takes {len(data):,} bytes",
                where=f"task {self.task!r}",
                expected=f"at most {RESULT_BYTES_MAX:,} bytes",
                next_step="write it to a file or a topic, and return its name",
            )
        return data

    def decode(self, data: bytes) -> Any:  # noqa: ANN401 - the annotation of the user's function
        """Return the stored result. Raises PayloadError when the annotation has changed since."""
        try:
            return self._decoder.decode(data)
        except (*_UNSTORABLE, NotImplementedError) as error:
            raise PayloadError(
                f"the stored result does not fit the task's annotation: {error}",
                where=f"task {self.task!r}",
                expected=_name_of(self._kind),
                next_step="read it with the release that stored it",
            ) from error


def decode_plain(data: bytes) -> Any:  # noqa: ANN401 - there is no annotation to go by
    """Return a stored result without its task: dicts, lists and scalars. Raises PayloadError."""
    try:
        return _any_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise PayloadError(f"a stored result cannot be read: {error}") from error


def _decoder_of(kind: Any) -> msgspec.msgpack.Decoder[Any]:  # noqa: ANN401 - types are values here
    return msgspec.msgpack.Decoder(kind, dec_hook=from_plain, ext_hook=from_extension)


def _is_variadic(kind: inspect._ParameterKind) -> bool:
    return kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _name_of(kind: Any) -> str:  # noqa: ANN401 - types are values here
    return getattr(kind, "__name__", None) or str(kind)


def _struct_of(
    parameters: Sequence[Parameter], hints: Mapping[str, Any], task: str
) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for parameter in parameters:
        kind: Any = hints.get(parameter.name, Any)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            kind = types.GenericAlias(list, (kind,))
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kind = types.GenericAlias(dict, (str, kind))
        if parameter.required:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
    try:
        struct = msgspec.defstruct("Arguments", fields, kw_only=_has_gap(parameters))
        _decoder_of(struct)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"the parameters of the task cannot be stored: {error}",
            where=f"task {task!r}",
            expected=_STORABLE,
            next_step="change the annotation, or leave it out for any plain value",
        ) from error
    return struct


def _has_gap(parameters: Sequence[Parameter]) -> bool:
    # A required keyword-only parameter behind one with a default: a positional struct refuses that order.
    optional_seen = False
    for parameter in parameters:
        if parameter.required and optional_seen:
            return True
        optional_seen = optional_seen or not parameter.required
    return False
