"""Records in compiled code: an address whose attributes are the fields at it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import models, register_model

from fastxent.backends.numba_cpu.jit import extending, intrinsic, numba
from fastxent.backends.numba_cpu.records import (
    BINARY,
    GROUP,
    JACOBIAN,
    LABEL_CHECK,
    PASS,
    SHARD,
    Record,
)

__all__ = ["binary_at", "group_at", "jacobian_at", "label_check_at", "pass_at", "shard_at"]

_INT64 = ir.IntType(64)
_NUMBERS = {"int": types.int64, "float": types.float64}


class Fields(types.Type):
    """Numba's type of the address of a record."""

    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(name=f"Fields({record.name})")


@register_model(Fields)
class _FieldsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fields: Fields) -> None:
        super().__init__(manager, fields, _INT64.as_pointer())  # type: ignore[no-untyped-call]


def _type_of(kind: Any) -> Any:
    if isinstance(kind, Record):
        return Fields(kind)
    return _NUMBERS[kind] if isinstance(kind, str) else numba.types.CPointer(_NUMBERS[kind[0]])


@infer_getattr
class _Attributes(AttributeTemplate):
    key = Fields

    def generic_resolve(  # type: ignore[override]
        self, fields: Any, name: str
    ) -> Any:
        kind = fields.record.fields.get(name)
        return None if kind is None else _type_of(kind)


def _place(context: Any, builder: Any, fields: Fields, address: Any, name: str) -> Any:
    """Pointer to a field, as a number of its type."""
    place = builder.gep(address, [ir.Constant(_INT64, fields.record.places[name])])
    kind = fields.record.fields[name]
    element = _NUMBERS[
        "int" if isinstance(kind, Record) else kind if isinstance(kind, str) else kind[0]
    ]
    return builder.bitcast(place, context.get_value_type(element).as_pointer())


def _read(context: Any, builder: Any, fields: Any, address: Any, name: str) -> Any:
    place = _place(context, builder, fields, address, name)
    # what is no number lies there itself
    return builder.load(place) if isinstance(fields.record.fields[name], str) else place


def _write(context: Any, builder: Any, signature: Any, values: Any, name: str) -> None:
    address, number = values
    builder.store(number, _place(context, builder, signature.args[0], address, name))


extending.lower_getattr_generic(Fields)(_read)
extending.lower_setattr_generic(Fields)(_write)


def _at(record: Record) -> Any:
    fields = Fields(record)

    @intrinsic
    def at(typing: Any, address: Any) -> Any:
        """The record at an address, which may be a pointer."""

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            (place,) = values
            if isinstance(place.type, ir.PointerType):
                return builder.bitcast(place, _INT64.as_pointer())
            return builder.inttoptr(place, _INT64.as_pointer())

        return fields(address), codegen

    return at


pass_at, group_at, jacobian_at, label_check_at, shard_at, binary_at = map(
    _at, (PASS, GROUP, JACOBIAN, LABEL_CHECK, SHARD, BINARY)
)
