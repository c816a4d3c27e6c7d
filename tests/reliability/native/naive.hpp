// The row formulas as a textbook writes them, one number after the other. Of a loop in float64 the sums would
// be worse than those that they judge: they keep what is lost. (Not in long double, of which valgrind has no
// more digits than of double.)
#pragma once

#include <cmath>
#include <vector>

#include "arrays.hpp"

// Neumaier's sum: what each addition rounds away is added up beside it.
class careful_sum {
    double sum_ = 0.0, lost_ = 0.0;

  public:
    careful_sum &operator+=(double number) {
        const double next = sum_ + number;
        lost_ += std::fabs(sum_) >= std::fabs(number) ? (sum_ - next) + number : (number - next) + sum_;
        sum_ = next;
        return *this;
    }
    careful_sum &operator-=(double number) { return *this += -number; }
    double value() const { return std::isfinite(sum_) ? sum_ + lost_ : sum_; }
};

struct naive_row {
    double loss, max, sum, log_sum, entropy, log_prob, mass;
    double scale;  // the size of the terms that the loss is made of
    int64_t argmax;
    bool special;  // no softmax: NaN, +inf, or nothing but -inf
};

struct naive_options {
    double logit_scale = 1.0, softcap = 0.0, z_loss = 0.0;
    double transformed(double x) const {
        if (softcap == 0.0) return logit_scale * x;
        return x == -infinite ? x : softcap * std::tanh(logit_scale * x / softcap);
    }
    double slope(double z) const {
        if (softcap == 0.0) return logit_scale;
        const double share = z / softcap;
        return logit_scale * std::fmax(0.0, 1.0 - share * share);
    }
};

// Results of a row of z with the mass t; `label` is -1 where there is none.
inline naive_row row_by_hand(const std::vector<double> &z, const std::vector<double> &t, int64_t label,
                             const naive_options &options) {
    naive_row row = {};
    row.max = -infinite;
    for (size_t k = 0; k < z.size(); ++k) {
        if (std::isnan(z[k]) || z[k] == infinite) row.special = true;
        if (z[k] > row.max) row.max = z[k], row.argmax = static_cast<int64_t>(k);
    }
    row.special |= row.max == -infinite;
    if (row.special) {
        row.loss = row.log_prob = row.entropy = row.sum = row.log_sum = nan_number;
        row.argmax = -1;
        return row;
    }
    careful_sum sum, mass, loss, entropy;
    for (double one : z) sum += std::exp(one - row.max);
    row.sum = sum.value();
    row.log_sum = std::log(row.sum);
    row.scale = 1.0;
    for (size_t k = 0; k < z.size(); ++k) {
        const double shifted = z[k] - row.max, e = std::exp(shifted);
        mass += t[k];
        if (t[k] != 0.0) loss -= t[k] * shifted;
        if (t[k] != 0.0 && std::isfinite(shifted)) row.scale += std::fabs(t[k] * shifted);
        if (e > 0.0) entropy -= e * shifted / row.sum;
    }
    row.mass = mass.value();
    row.loss = loss.value() + row.mass * row.log_sum;
    row.entropy = entropy.value() + row.log_sum;
    row.log_prob = label >= 0 ? z[label] - row.max - row.log_sum : -row.loss;
    const double lse = row.max + row.log_sum;
    row.loss += options.z_loss * lse * lse;
    row.scale += std::fabs(row.mass * row.log_sum) + options.z_loss * lse * lse + std::fabs(row.max);
    // where rows lie in the lanes, a block of classes is added up one by one
    row.scale *= 1 + static_cast<double>(z.size()) / 64;
    return row;
}

inline double grad_by_hand(const naive_row &row, double z, double t, const naive_options &options) {
    if (row.special) return nan_number;
    const double lse = row.max + row.log_sum;
    const double p = std::exp(z - row.max) / row.sum;
    return ((row.mass + 2 * options.z_loss * lse) * p - t) * options.slope(z);
}

// Whether a result is the number that it should be, as far as `size` of its terms allows.
inline void require_close(double result, double truth, double size, int compute_size, int kind,
                          const char *what) {
    const double step = compute_size == 8 ? 0x1p-52 : 0x1p-23;
    if (std::isnan(truth)) {
        REQUIRE(std::isnan(result), "%s is %g, not NaN", what, result);
        return;
    }
    const bool overflows = kind == fastxent_float16 && std::fabs(truth) >= 65504.0;
    if (std::isinf(truth) || (overflows && std::isinf(result) && (result > 0) == (truth > 0))) {
        truth = overflows ? std::copysign(infinite, truth) : truth;
        REQUIRE(result == truth, "%s is %g, not %g", what, result, truth);
        return;
    }
    const double stored = rounding_of(kind) * std::fabs(truth) + (kind == fastxent_float16 ? 0x1p-24 : 0.0);
    const double allowed = 64 * step * size + 2 * stored;
    REQUIRE(std::fabs(result - truth) <= allowed, "%s is %.17g, not %.17g +- %.3g", what, result, truth,
            allowed);
}

inline bool same_number(const char *one, const char *other, int kind) {
    if (std::memcmp(one, other, item_sizes[kind]) == 0) return true;
    return kind <= fastxent_bfloat16 && std::isnan(number_at(kind, one)) && std::isnan(number_at(kind, other));
}

inline void require_same_bits(const array &now, const std::vector<char> &before, const char *what) {
    const std::vector<char> image = now.image();
    const char *base = image.data();
    for (size_t at = 0; at < image.size(); ++at) {
        if (image[at] == before[at]) continue;
        // bytes differ: unless they belong to NaN both times, so do results
        bool excused = false;
        for (int64_t i = 0; i < now.count() && !excused; ++i) {
            const int64_t place = now.at(i) - now.start();
            if (place <= static_cast<int64_t>(at) && static_cast<int64_t>(at) < place + item_sizes[now.kind])
                excused = same_number(base + place, before.data() + place, now.kind);
        }
        REQUIRE(excused, "%s has other bits on three threads", what);
    }
}
