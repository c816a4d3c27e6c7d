// The verbs of one instruction level, as the Cython module calls them.
//
// Strides count elements. A pointer that is null means absent: an output that is not computed, an
// option that costs nothing.
#pragma once

#include <cstdint>

// Classes per block and labels per partial sum: BLOCK and LABEL_CHUNK of backends/contract.py.
constexpr int64_t fastxent_block = 1024;
constexpr int64_t fastxent_label_chunk = 8192;
// Most classes for which rows lie in the lanes: TILE_CLASSES of backends/contract.py.
constexpr int64_t fastxent_tile_classes = 100;

// What a block of a row hands up, or the whole row: the maximum m (-inf: all masked), sum exp(z - m),
// sum t and sum t * (z - m), relative to 0 where m is -inf; and exp(m - row's m), once known.
struct fastxent_block_sums {
    double max, sum, mass, dot, factor;
};

struct fastxent_labels {
    const void *data;
    int64_t rows, classes;
    int size;       // bytes of one label
    int is_signed;
    int has_skip;
    int64_t skip;   // its 64-bit pattern
};

struct fastxent_label_check {
    fastxent_labels labels;
    const double *class_mass, *row_mass;
    int threads;
    // one of each per chunk of labels
    int64_t *bad_row, *live;
    double *mass;
};

// How a pass is cut up. It depends on the shape only, but for `pieces`, and cutting a row up changes no
// bit of it.
struct fastxent_schedule {
    bool tiles;          // rows in the lanes
    int64_t chunk_rows;  // rows that a thread takes at a time; one total each
    int64_t chunks;
    int64_t blocks;      // of a row
    int64_t group_rows;  // rows that a thread finishes together
    int64_t pieces;  // of a row: more than one where threads share it
};

struct fastxent_pass {
    int64_t rows, classes;
    int size;  // bytes of one logit: 4 or 8
    const void *logits;
    int64_t logits_stride;
    fastxent_labels labels;  // data is null where there are none
    const void *soft;
    int64_t soft_stride;
    int soft_size;  // bytes of one probability: 1, 4 or 8
    // a step is 1 for an array, 0 for a constant; a constant of the compute type fills 64 bytes
    const double *spike, *row_scale;
    int64_t spike_step, row_scale_step;
    const void *background, *gain;
    int64_t background_step, gain_step;
    double background_total;  // the whole mass of a row without labels and probabilities
    void *loss, *grad, *row_max, *log_proba;
    double *row_sum, *total;
    int64_t out_stride;  // of grad or log_proba
    int threads;
    fastxent_schedule schedule;
    void *scratch;  // fastxent_scratch_bytes of it
};

struct fastxent_jacobian;  // jacobian_pass.hpp

struct fastxent_level {
    const char *name;
    void (*check_labels)(const fastxent_label_check &);
    void (*forward)(const fastxent_pass &);
    void (*softmax_backward)(const fastxent_jacobian &);
};

fastxent_schedule fastxent_schedule_of(int64_t rows, int64_t classes, int threads);
int64_t fastxent_scratch_bytes(const fastxent_pass &);

// The levels that were built, lowest first, and how many this CPU can run.
extern const fastxent_level *const fastxent_levels[];
extern const int fastxent_level_count;
int fastxent_supported_levels();

int fastxent_openmp_version();  // 0 when built without
int fastxent_openmp_limit();
