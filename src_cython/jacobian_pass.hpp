// One Jacobian product, as the Cython module describes it, and how it is cut up.
#pragma once

#include "kernels.hpp"

// Most classes for which rows lie in the lanes: JACOBIAN_TILE_CLASSES of backends/contract.py.
constexpr int64_t fastxent_jacobian_tile_classes = 32;
constexpr int64_t fastxent_jacobian_tiles = 4;  // that are taken together where rows lie side by side

// It depends on shape and layout only, but for `pieces` and `chunk_rows`, which change no bit.
struct fastxent_jacobian_schedule {
    bool tiles;  // rows in the lanes, or one by one
    int64_t chunk_rows, chunks, blocks;
    int64_t pieces;  // of a row: more than one where threads share it
    int64_t scratch_bytes;
};

struct fastxent_jacobian {
    int64_t rows, classes;
    bool is_log;  // whether `first` holds logarithms
    fastxent_matrix first, grad, out;  // of one kind
    int threads;
    fastxent_watch *watch;
    fastxent_jacobian_schedule schedule;
    void *scratch;
};

fastxent_jacobian_schedule fastxent_jacobian_schedule_of(const fastxent_jacobian &);
