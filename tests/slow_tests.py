"""Tests that `make test` leaves to `make test-slow`; `make reliability` runs those of its promises.

The suite took some 2,000 seconds of one core with nothing compiled before, and 25,000 tests; these
are a sixth of the tests and 1,140 of the seconds. The comments say what holds the same meanwhile.
"""

from __future__ import annotations

import re

__all__ = ["is_slow"]

# Seconds of one core with nothing compiled before, and beginnings of names of tests.
_SLOW = {
    # Numba's kernels of all but float32, compiled one by one, wherever a test is run for each
    # backend: the tests of twins hold their bits to those of the compiled backend, which is tested.
    r"tests/(?!processes/|gpu/).*\[(?=.*\bnumba\b)(?=.*float(16|64))": 300,
    r"tests/sharding/test_(spread_cases|by_block).py::.*\[numba-": 50,
    r"tests/test_properties.py::test_(random_cases_with_every|any_layout).*float32-numba\]": 12,
    # Kernels of float16 and float64 between pages that nobody may touch; those of float32 stay.
    r"tests/test_guard_pages.py::test_numba_touches": 120,
    # The same in code of users; a test in ten of its file compiles for seconds.
    r"tests/test_numba_rows.py::test_(any_labels|pickled|rows_of_out|probabilities)": 31,
    r"tests/test_numba_rows.py::test_the_mean_has_the_bits_of_the_backend\[.*-1\]": 10,
    r"tests/test_numba_backend.py::test_too_many_threads_are_clamped": 14,
    r"tests/test_doctests.py::test_docstrings\[fastxent.numba.means\]": 12,
    # What compilers made of the kernels: `make instructions` prints it.
    r"tests/test_instructions.py::": 30,
    r"tests/test_numba_backend.py::test_(vector_instructions|bits_do_not_depend_on_the_width)": 37,
    # Kernels of cards without a card: every way of choosing kernels but the usual one, what is in
    # the compiled files of rows, the scripts that measure a card.
    r"tests/gpu/test_conformance_simulated.py::(?!.*-as_planned\]|test_every)": 43,
    r"tests/gpu/test_row_cubins.py::": 71,
    r"tests/gpu/test_row_kernels.py::.*(bfloat16|float64)": 10,
    r"tests/gpu/test_card_scripts.py::test_(every_part|what_takes|the_processes)": 32,
    r"tests/gpu/test_tile_and_strided.py::test_(a_tile_is_moved|few_classes|strided_rows_stay)": 18,
    r"tests/gpu/test_traffic_simulated.py::": 24,
    r"tests/gpu/test_torch_tensors.py::test_as_pytorch\[3-": 8,
    r"tests/gpu/test_shards_simulated.py::test_everything_stays_in_registers": 6,
    # Frameworks that compile for many seconds what shorter tests compile, too.
    r"tests/frameworks/test_keras_backends.py::test_backend\[(torch|jax)\]": 65,
    r"tests/frameworks/test_keras_training.py::test_digits": 11,
    r"tests/frameworks/test_jax_transforms.py::test_(derivatives_aga|hessian_is|weights_in)": 29,
    r"tests/frameworks/test_jax_linear_programs.py::test_(a_budget|temporaries|rows_on)": 20,
    r"tests/frameworks/test_jax_vocab_parallel.py::test_(options_are|transformations|a_wrong)": 16,
    r"tests/frameworks/test_jax_vocab_parallel.py::test_(three_or_four|what_is_left|padding)": 10,
    r"tests/frameworks/test_torch_threads.py::test_workers_of_a_data_loader": 16,
    r"tests/frameworks/test_torch_linear_memory.py::test_peak": 15,
    r"tests/test_bench_frameworks.py::test_fits_reach": 8,
    r"tests/test_docs.py::test_examples\[docs/(jax|numba).md\]": 21,
    # Processes: the program of two libraries in one is among those of `make reliability`.
    r"tests/processes/test_left_alone.py::test_adapters.*\[(keras|tensorflow)\]": 14,
    r"tests/processes/test_share_openmp.py::test_two_libraries": 7,
    r"tests/test_bench.py::test_command_measures_one_shape": 15,
    r"tests/test_sdist.py::test_sdist_is_the_same": 9,
    r"tests/test_cli.py::test_(check_prints_a_table|demo_names_the_extra)": 15,
    r"tests/processes/test_limits.py::test_workers_of": 17,
    # What `fastxent demo --binary` trains, by Numba; the other demo is trained by it, too.
    r"tests/test_demo.py::test_(binary_results_agree|short_binary).*\[numba\]": 18,
    r"tests/test_demo.py::test_(binary_demo_as_a_user|binary_demo_fails|a_wrong_result)": 10,
}
_NAMES = re.compile("|".join(_SLOW))


def is_slow(name: str) -> bool:
    """Whether a test, by its whole name from `tests/` on, is one of them."""
    return _NAMES.match(name) is not None
