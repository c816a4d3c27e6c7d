"""Tests that `make test` leaves to `make test-slow`; `make reliability` runs those of its promises.

The suite has 25,000 tests and takes some 2,500 seconds of one core with nothing compiled before; a
quarter of the tests takes 1,700 of them. The comments say what holds the same meanwhile.
"""

from __future__ import annotations

import re

__all__ = ["is_slow"]

# Seconds of one core with nothing compiled before, and beginnings of names of tests.
_SLOW = {
    # Numba's kernels are compiled one by one. Conformance in float32 has every option, and twins in
    # float32 hold their bits to those of the compiled backend; what else is run for each backend in
    # turn leaves Numba out, but in tests of processes.
    r"tests/(?!processes/|gpu/|test_(conformance|twins|numba_|disk_|doc|arch)).*\[.*\bnumba\b": 450,
    r"tests/test_conformance.py::.*float(16|64)-numba\]": 140,
    r"tests/test_twins_options.py::.*\[b?float(16|64)": 120,
    r"tests/test_twins.py::test_rows_shared_among_threads.*\[float64": 8,
    r"tests/sharding/test_shard_twins.py::.*\[.*\bb?float(16|64)": 50,
    r"tests/test_softmax_backward.py::test_cython_and_numba.*\[b?float(16|64)": 20,
    # Kernels of float16 and float64 between pages that nobody may touch; those of float32 stay.
    r"tests/test_guard_pages.py::test_numba_touches": 120,
    # The same in code of users; a test in ten of its file compiles for seconds.
    r"tests/test_numba_rows.py::test_(any_labels|pickled|rows_of_out|probabilities|an_unsign)": 37,
    r"tests/test_numba_rows.py::test_the_mean_has_the_bits_of_the_backend\[(None-|.*-1\])": 17,
    r"tests/test_numba_backend.py::test_too_many_threads_are_clamped": 14,
    r"tests/test_doctests.py::test_docstrings\[fastxent.numba.means\]": 12,
    # What compilers made of the kernels: `make instructions` prints it.
    r"tests/test_instructions.py::": 30,
    r"tests/test_numba_backend.py::test_(vector_instructions|bits_do_not_depend_on_the_width)": 37,
    # Kernels of cards without a card: every way of choosing kernels but the usual one, what is in
    # the compiled files of rows, bfloat16 and float64 beside float16 and float32, the scripts that
    # measure a card.
    r"tests/gpu/test_conformance_simulated.py::(?!.*-as_planned\]|test_every)": 43,
    r"tests/gpu/test_row_cubins.py::": 71,
    r"tests/gpu/test_(row_kernels|on_device|tile_and_str|torch_tens).*::.*(bfloat16|float64)": 22,
    r"tests/gpu/test_card_scripts.py::test_(every_part|what_takes|the_processes)": 32,
    r"tests/gpu/test_tile_and_strided.py::test_(a_tile_is_moved|few_classes|strided_rows_stay)": 18,
    r"tests/gpu/test_traffic_simulated.py::": 24,
    r"tests/gpu/test_torch_tensors.py::test_as_pytorch\[3-": 8,
    r"tests/gpu/test_small_kernels.py::test_small_kernels_stay_in_registers": 5,
    r"tests/gpu/test_disassembly.py::test_a_line_holds": 4,
    r"tests/gpu/test_shards_simulated.py::test_everything_stays_in_registers": 6,
    # Frameworks that compile for many seconds what shorter tests compile, too.
    r"tests/frameworks/test_keras_backends.py::test_backend\[(torch|jax)\]": 65,
    r"tests/frameworks/test_keras_training.py::test_digits": 11,
    r"tests/frameworks/test_jax_transforms.py::test_(derivatives_a|hessian|weights|scan|mask)": 36,
    r"tests/frameworks/test_jax_softmax.py::test_half_precision\[.*-bfloat16\]": 4,
    r"tests/frameworks/test_jax_linear.py::test_a_filter_leaves_out": 4,
    r"tests/frameworks/test_torch_autograd.py::test_first_and_second.*\[probabilities-all": 6,
    r"tests/frameworks/test_jax_refusals.py::test_(labels_of_a_dtype|a_masked_label)": 12,
    r"tests/frameworks/test_jax_linear_programs.py::test_(a_budget|temporaries|rows_on|vmap)": 23,
    r"tests/frameworks/test_jax_vocab_parallel.py::test_(options_are|transformations|a_wrong)": 16,
    r"tests/frameworks/test_jax_vocab_parallel.py::test_(three_or_four|what_is_left|padding)": 10,
    r"tests/frameworks/test_torch_threads.py::test_workers_of_a_data_loader": 16,
    r"tests/frameworks/test_torch_linear_memory.py::test_peak": 15,
    r"tests/test_bench_frameworks.py::test_fits_reach": 8,
    r"tests/test_bench.py::test_every_peer_is_right\[torch.compile": 8,
    r"tests/test_docs.py::test_examples\[docs/(jax|numba).md\]": 21,
    # Jobs of several processes whose like, without a card or with another library, is tested.
    r"tests/sharding/test_processes_torch_on_gpu.py::": 17,
    r"tests/sharding/test_processes_mpi.py::test_arrays_of_a_library.*\[jax\]": 5,
    r"tests/sharding/test_dask_lazy.py::test_file_larger_than_memory": 5,
    # Processes: the program of two libraries in one is among those of `make reliability`.
    r"tests/processes/test_left_alone.py::test_adapters.*\[(keras|tensorflow)\]": 14,
    r"tests/processes/test_share_openmp.py::test_two_libraries": 7,
    r"tests/test_bench.py::test_command_measures_one_shape": 15,
    r"tests/test_sdist.py::test_sdist_is_the_same": 9,
    r"tests/test_disk_cache_numba.py::test_program_that_harms": 8,
    r"tests/test_cli.py::test_(check_prints_a_table|demo_names_the_extra)": 15,
    r"tests/processes/test_limits.py::test_workers_of": 17,
    # Demos that fail, and the binary one as a user runs it: the other is.
    r"tests/test_demo.py::test_(binary_demo_as_a_user|(binary_)?demo_fails|a_wrong_result)": 15,
}
_NAMES = re.compile("|".join(_SLOW))


def is_slow(name: str) -> bool:
    """Whether a test, by its whole name from `tests/` on, is one of them."""
    return _NAMES.match(name) is not None
