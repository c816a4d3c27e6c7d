// The verbs of one instruction level, as the Cython module calls them.
//
// Strides count bytes. A pointer that is null means absent: an output that is not computed, an option
// that costs nothing.
#pragma once

#include <cstdint>

// Classes per block and labels per partial sum: BLOCK and LABEL_CHUNK of backends/contract.py.
constexpr int64_t fastxent_block = 1024;
constexpr int64_t fastxent_label_chunk = 8192;
// Most classes for which rows lie in the lanes: TILE_CLASSES of backends/contract.py.
constexpr int64_t fastxent_tile_classes = 100;
// Elements a chunk: CHUNK_ELEMENTS of backends/contract.py, a few microseconds of work, so that a core
// that is busy elsewhere delays the call by one chunk only.
constexpr int64_t fastxent_chunk_elements = 1 << 14;

// Lets a long call end early: its loops are cut into slices, and Python is asked between them whether a
// signal has come. A slice begins with some milliseconds' work of each thread and grows until the teams
// that it starts are nothing beside it.
struct fastxent_watch {
    bool (*interrupted)();  // waits for Python's lock; whether a signal's handler raised
    int64_t slice, left;    // elements of a thread between two looks at the clock, and until the next
    int64_t looked, ask;    // nanoseconds of the clock: the last look, and when Python is asked
};
// A call of no more elements is not watched.
constexpr int64_t fastxent_slice_elements = 1 << 22;
void fastxent_begin_watch(fastxent_watch &, bool (*interrupted)());
bool fastxent_interrupted(fastxent_watch &);

// How numbers are stored: KINDS of backends/contract.py, in this order.
enum fastxent_kind {
    fastxent_float32,
    fastxent_float64,
    fastxent_float16,
    fastxent_bfloat16,
    fastxent_uint8,
    fastxent_int8,
    fastxent_uint16,
    fastxent_int16,
    fastxent_uint32,
    fastxent_int32,
    fastxent_uint64,
    fastxent_int64,
};

// Numbers of rows and classes, somewhere in memory. The rows are numbered through `levels` dimensions,
// the first of which varies fastest.
constexpr int fastxent_most_levels = 4;
struct fastxent_matrix {
    char *data;  // of row 0 and class 0
    int kind, levels;
    int64_t class_stride;
    int64_t size[fastxent_most_levels], stride[fastxent_most_levels];
};

// What a block of a row hands up, or the whole row: the maximum m (-inf: all masked), sum exp(z - m),
// sum t, sum t * (z - m) and sum exp(z - m) * (z - m), relative to 0 where m is -inf; exp(m - row's m),
// once known; and the first class that holds m, where that is asked for.
struct fastxent_block_sums {
    double max, sum, mass, dot, spread, factor;
    int64_t argmax;
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
    fastxent_watch *watch;
    // one of each per chunk of labels
    int64_t *bad_row, *live;
    double *mass;
};

// How a pass is cut up, and which rows are computed where they lie. It depends on shapes, strides and
// what is asked for, but for `pieces`, and cutting a row up changes no bit of it.
struct fastxent_schedule {
    bool tiles;          // rows in the lanes
    bool columns;        // which lie side by side in memory, class by class
    bool reads_directly;  // logits are numbers of the compute type, classes side by side, untransformed
    bool writes_directly;  // the gradient likewise
    bool soft_directly;    // probabilities likewise, without factors
    bool keeps_logits;     // something needs the logits after their exponentials
    int64_t run;         // consecutive rows that lie side by side in memory, class by class; or all rows
    int64_t chunk_rows;  // rows that a thread takes at a time; one total each
    int64_t chunks;
    int64_t tiles_of_run;  // and of how many tiles a chunk consists
    int64_t chunk_tiles;
    int64_t tiles_at_a_time;
    int64_t blocks;      // of a row
    int64_t group_rows;  // rows that a thread finishes together
    int64_t pieces;      // of a row: more than one where threads share it
    int64_t buffer;      // numbers of a thread's buffer, of which it has `buffers` for each tile in work
    int64_t buffers;
    int64_t thread_bytes;  // of scratch memory, of each thread; and after these of all together
    int64_t shared_bytes;
};

struct fastxent_pass {
    int64_t rows, classes;
    int size;  // bytes of a number that is computed with: 4 or 8
    fastxent_matrix logits;
    fastxent_labels labels;  // data is null where there are none
    fastxent_matrix soft;
    // a step is 1 for an array, 0 for a constant; a constant of the compute type fills 64 bytes
    const double *spike, *row_scale;
    int64_t spike_step, row_scale_step;
    const void *background, *gain;
    int64_t background_step, gain_step;
    double background_total;  // the whole mass of a row without labels and probabilities
    // z = softcap * tanh(logit_scale * x / softcap), or logit_scale * x where softcap is 0
    double logit_scale, softcap, z_loss;
    fastxent_matrix grad, proba, hess, log_proba, target_grad;
    // hess = max(hess_factor * row_scale * p * (1 - p), hess_floor), or |p - [label]| for p * (1 - p)
    bool hess_is_distance;
    double hess_factor, hess_floor;
    void *loss, *row_max, *log_prob, *entropy;
    int64_t *argmax;
    double *row_sum, *total;
    int threads;
    fastxent_watch *watch;  // null: nobody is asked
    bool in_blocks;  // never tiles: the sums of blocks are handed out
    fastxent_schedule schedule;
    char *scratch;  // fastxent_scratch_bytes of it, on a boundary of 64 bytes
};

struct fastxent_binary_pass;  // binary_pass.hpp
struct fastxent_jacobian;     // jacobian_pass.hpp
struct fastxent_shard;        // shard_pass.hpp

// Verbs tell whether they came to their end, which they do unless they were interrupted.
struct fastxent_level {
    const char *name;
    bool (*check_labels)(const fastxent_label_check &);
    bool (*forward)(const fastxent_pass &);
    bool (*binary)(const fastxent_binary_pass &);
    bool (*softmax_backward)(const fastxent_jacobian &);
    bool (*partial)(const fastxent_shard &);
    bool (*merge)(const fastxent_shard &);
    bool (*partial_backward)(const fastxent_shard &);
};

fastxent_schedule fastxent_schedule_of(const fastxent_pass &);
int64_t fastxent_scratch_bytes(const fastxent_pass &);

// The levels that were built, lowest first, and how many this CPU can run.
extern const fastxent_level *const fastxent_levels[];
extern const int fastxent_level_count;
int fastxent_supported_levels();

int fastxent_openmp_version();  // 0 when built without
int fastxent_openmp_limit();
