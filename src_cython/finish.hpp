// From the sums of rows to their results, in double precision, eight rows at a time: the logarithm and
// two divisions take as long for one row as for eight.
#pragma once

#include "elementary.hpp"

namespace {

struct row_numbers {
    lanes<double> max, sum, mass, dot;  // m, s, sum t, and sum t * (z - m) without the label's
    lanes<double> spike, scale;         // the label's mass, the gradient's factor
    lanes<double> at_label;             // the logit there,
    lanes<double> exp_at_label;         // its exp(z - m)
    lanes<double> mass_at_label;        // and what mass it has besides the spike
};

struct row_results {
    lanes<double> loss, log_sum, share, grad_at_label;
};

// loss = T * log s - sum t * (z - m). The gradient at the label is computed here, in double: p - 1
// cancels.
FASTXENT_INLINE row_results finish(const row_numbers &row) {
    row_results result;
    result.log_sum = log_of_sum(row.sum);
    result.share = row.mass / row.sum;
    const lanes<double> loss = row.mass * result.log_sum - row.dot;
    result.loss = where_nonzero(row.spike, loss - row.spike * (row.at_label - row.max), loss);
    result.grad_at_label =
        row.scale * (result.share * row.exp_at_label - (row.spike + row.mass_at_label));
    return result;
}

}  // namespace
