// What runs a pass, on any thread: the instruction level, the number of threads, scratch memory.
#pragma once

#include <atomic>

#include "jax_arrays.hpp"

namespace {


std::atomic<const fastxent_level *> level{nullptr};
std::atomic<int> thread_limit{1};
std::atomic<double> nanoseconds_of_row{0.0}, nanoseconds_of_byte{0.0}, nanoseconds_of_thread{1.0};

// The model of threads.plan, and a limit that may have changed since the call was compiled. It is 0
// where a team of threads must never be started.
int threads_for(int64_t asked, int64_t rows, int64_t bytes) {
    const int limit = thread_limit;
    if (limit == 0) return 1;
    if (asked > 0) return static_cast<int>(asked);
    const double worth = static_cast<double>(rows) * nanoseconds_of_row +
                         static_cast<double>(bytes) * nanoseconds_of_byte;
    const double threads = worth / nanoseconds_of_thread;
    if (threads < 2.0) return 1;
    return threads < limit ? static_cast<int>(threads) : limit;
}

int run(fastxent_pass &pass, scratch &memory) {
    pass.schedule = fastxent_schedule_of(pass);
    pass.scratch = memory.get(fastxent_scratch_bytes(pass));
    if (!pass.scratch) return fastxent_no_memory;
    level.load()->forward(pass);
    return fastxent_done;
}

}  // namespace
