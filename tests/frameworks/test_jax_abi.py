"""Our declaration of XLA's C structs against the header that jaxlib ships, by a C compiler."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

SOURCES = Path(__file__).parent.parent.parent / "src_cython"

# ours, theirs, and the members in pairs
STRUCTS = {
    ("fastxent_xla_extension", "XLA_FFI_Extension_Base"): "struct_size type next",
    ("fastxent_xla_version", "XLA_FFI_Api_Version"): (
        "struct_size extension:extension_start major:major_version minor:minor_version"
    ),
    ("fastxent_xla_metadata", "XLA_FFI_Metadata"): "struct_size version:api_version traits",
    ("fastxent_xla_metadata_extension", "XLA_FFI_Metadata_Extension"): (
        "base:extension_base metadata"
    ),
    ("fastxent_xla_error_create", "XLA_FFI_Error_Create_Args"): (
        "struct_size extension:extension_start message code:errc"
    ),
    ("fastxent_xla_api", "XLA_FFI_Api"): (
        "struct_size extension:extension_start version:api_version internal:internal_api "
        "create_error:XLA_FFI_Error_Create"
    ),
    ("fastxent_xla_buffer", "XLA_FFI_Buffer"): (
        "struct_size extension:extension_start type:dtype data rank dims"
    ),
    ("fastxent_xla_array", "XLA_FFI_Array"): "type:dtype size data",
    ("fastxent_xla_list", "XLA_FFI_Args"): (
        "struct_size extension:extension_start size types items:args"
    ),
    ("fastxent_xla_list", "XLA_FFI_Rets"): (
        "struct_size extension:extension_start size types items:rets"
    ),
    ("fastxent_xla_text", "XLA_FFI_ByteSpan"): "data:ptr size:len",
    ("fastxent_xla_attributes", "XLA_FFI_Attrs"): (
        "struct_size extension:extension_start size types names items:attrs"
    ),
    ("fastxent_xla_frame", "XLA_FFI_CallFrame"): (
        "struct_size extension:extension_start api context:ctx stage arguments:args results:rets "
        "attributes:attrs"
    ),
}
# Those that XLA fills for us end where ours end; of the others we know the beginning only.
WHOLE = {"extension", "version", "metadata_extension", "error_create", "buffer", "array", "list"}
WHOLE |= {"text", "attributes"}
CONSTANTS = {
    "extension_metadata": "Extension_Metadata",
    "stage_execute": "ExecutionStage_EXECUTE",
    "argument_buffer": "ArgType_BUFFER",
    "result_buffer": "RetType_BUFFER",
    "attribute_array": "AttrType_ARRAY",
    "invalid_argument": "Error_Code_INVALID_ARGUMENT",
    "resource_exhausted": "Error_Code_RESOURCE_EXHAUSTED",
    **{
        name: f"DataType_{name.upper()}"
        for name in (
            *("pred", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64"),
            *("f16", "f32", "f64", "bf16"),
        )
    },
}


def program():
    lines = ['#include "xla.h"', '#include "xla/ffi/api/c_api.h"']

    def same(first, second):
        lines.append(f'_Static_assert({first} == {second}, "{first}");')

    for (ours, theirs), members in STRUCTS.items():
        for member in members.split():
            own, _, other = member.partition(":")
            other = other or own
            same(f"offsetof(struct {ours}, {own})", f"offsetof({theirs}, {other})")
            same(f"sizeof(((struct {ours} *)0)->{own})", f"sizeof((({theirs} *)0)->{other})")
        if ours.removeprefix("fastxent_xla_") in WHOLE:
            same(f"sizeof(struct {ours})", f"sizeof({theirs})")
    for ours, theirs in CONSTANTS.items():
        same(f"fastxent_xla_{ours}", f"XLA_FFI_{theirs}")
    same("FASTXENT_XLA_MAJOR", "XLA_FFI_API_MAJOR")
    lines.append('_Static_assert(FASTXENT_XLA_MINOR <= XLA_FFI_API_MINOR, "minor version");')
    return "\n".join([*lines, "int main(void) {}"])


@pytest.fixture
def compiles(tmp_path):
    compiler = os.environ.get("CC", "").split()[-1:] or ["cc"]
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C compiler")
    if not (SOURCES / "xla.h").exists():
        pytest.skip("the source tree is absent: a wheel is being tested")

    def compiled(text):
        (tmp_path / "abi.c").write_text(text)
        include = [f"-I{SOURCES}", f"-I{jax.ffi.include_dir()}"]
        command = [*compiler, "-std=c11", "-fsyntax-only", *include, str(tmp_path / "abi.c")]
        return subprocess.run(command, capture_output=True, text=True)

    return compiled


def test_our_declaration_is_that_of_the_header(compiles):
    found = compiles(program())
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        (
            "offsetof(struct fastxent_xla_buffer, rank)",
            "offsetof(struct fastxent_xla_buffer, dims)",
        ),
        ("fastxent_xla_bf16 ==", "fastxent_xla_f16 =="),
    ],
)
def test_a_difference_is_found(compiles, what, instead):
    assert what in program()
    found = compiles(program().replace(what, instead))
    assert "static assertion failed" in found.stderr
