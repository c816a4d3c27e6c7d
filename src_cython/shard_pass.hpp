// Passes over some of the classes, as the Cython module describes them: what rows hand up of their
// blocks, the results from the blocks of all classes, and the gradient from the rows' statistics.
#pragma once

#include "kernels.hpp"

// Sums of parts of rows, PartialSums of backends/contract.py: arrays (parts, rows), null where absent.
struct fastxent_part_sums {
    int64_t parts;
    double *max, *sum, *mass, *dot, *spread;
    int64_t *argmax;      // of all classes
    double *label_logit;  // (rows,): z at the label where its class is here
};

struct fastxent_shard {
    // Labels, and `spike` in a merge, are those of all classes; all else is of the classes here.
    fastxent_pass pass;
    int64_t first_class;
    fastxent_part_sums sums;                        // `partial` writes them, `merge` reads them
    const double *row_max, *row_sum, *row_mass;     // what `partial_backward` starts from
    double *mass;                                   // `merge`: the whole mass of rows, or null
    int64_t pieces;       // of a row: threads share rows where there are few
    int64_t task_chunks;  // of a merge, that a thread takes at a time
};

// How they are cut up; the scratch memory is that of fastxent_scratch_bytes(shard.pass).
void fastxent_plan_shard(fastxent_shard &);
void fastxent_plan_merge(fastxent_shard &);
