"""Functions that only compiled code calls: lowered once, compiled with each caller alone.

Numba optimises every function by itself and makes machine code of it, which nobody runs where all
callers have taken the function in. Here a part of a kernel stays as it was lowered until the kernel
is optimised as a whole.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import codegen, compiler, compiler_machinery, typed_passes

__all__ = ["PartCompiler"]

# Without type hints, all of them.
_Library: Any = codegen.JITCodeLibrary
_Lowering: Any = typed_passes.NativeLowering
_Compiler: Any = compiler.CompilerBase
_builder: Any = compiler.DefaultPassBuilder
_register_pass: Any = compiler_machinery.register_pass
_make_function: Any = _dynfunc.make_function


class _PartLibrary(_Library):  # type: ignore[misc]
    """Code that waits to be linked into its callers'."""

    def _optimize_final_module(self) -> None:
        """Leave it as it is: the caller's code is optimised as a whole."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@_register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(_Lowering):  # type: ignore[misc]
    """Lower, and tell the target where the code is, without making an executable."""

    _name = "fastxent_part_lowering"

    def run_pass(self, state: Any) -> bool:
        """Do as the pass of Numba does with `no_compile`, and make the function known."""
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        about, library = state.cr.fndesc, state.library
        # what an executable without a wrapper for Python is, too: its address is 0
        part = _make_function(
            about.lookup_module(), about.qualname, "", 0, state.cr.env, (library,)
        )
        state.cr = state.cr._replace(cfunc=part)
        state.targetctx.insert_user_function(part, about, [library])
        return True


class PartCompiler(_Compiler):  # type: ignore[misc]
    """Numba's pipeline with another last step."""

    def define_pipelines(self) -> list[Any]:
        """Give the one that Numba's own compiler has."""
        pipeline = _builder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (_PartLowering if kind is _Lowering else kind, text) for kind, text in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]
