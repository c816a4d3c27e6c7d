// From the sums of rows to their results, in double precision, eight rows at a time: the logarithm and
// two divisions take as long for one row as for eight.
#pragma once

#include "elementary.hpp"
#include "kernels.hpp"

namespace {

struct row_numbers {
    lanes<double> max, sum, mass, dot;  // m, s, sum t, and sum t * (z - m) without the label's
    lanes<double> spike, scale;         // the label's mass, the gradient's factor
    lanes<double> at_label;             // z there,
    lanes<double> exp_at_label;         // its exp(z - m)
    lanes<double> mass_at_label;        // and what mass it has besides the spike
};

struct row_results {
    lanes<double> loss, log_sum, share, grad_at_label;
    lanes<double> log_prob;  // of the label; of a target without one sum t * (z - L)
};

// The gradient at the label, computed in double: p - 1 cancels.
FASTXENT_INLINE lanes<double> gradient_at_label(const fastxent_pass &pass, const row_numbers &row,
                                                const lanes<double> &share) {
    const lanes<double> gradient =
        row.scale * (share * row.exp_at_label - (row.spike + row.mass_at_label));
    if (pass.softcap == 0.0) return gradient;
    const lanes<double> bent = row.at_label * splat(1.0 / pass.softcap);
    return gradient * max(splat(1.0) - bent * bent, splat(0.0));
}

// loss = T * log s - sum t * (z - m) + z_loss * L^2 with L = m + log s.
FASTXENT_INLINE row_results finish(const fastxent_pass &pass, const row_numbers &row) {
    row_results result;
    result.log_sum = log_of_sum(row.sum);
    const lanes<double> loss = row.mass * result.log_sum - row.dot;
    const lanes<double> at_label = row.at_label - row.max;
    result.loss = where_nonzero(row.spike, loss - row.spike * at_label, loss);
    result.log_prob = pass.labels.data ? at_label - result.log_sum : splat(0.0) - result.loss;
    lanes<double> mass = row.mass;
    if (pass.z_loss != 0.0) {
        const lanes<double> lse = row.max + result.log_sum, z_loss = splat(pass.z_loss) * lse;
        result.loss = result.loss + z_loss * lse;
        mass = mass + (z_loss + z_loss);
    }
    result.share = mass / row.sum;
    result.grad_at_label = gradient_at_label(pass, row, result.share);
    return result;
}

}  // namespace
