// What runs a pass, on any thread: the instruction level, the number of threads, scratch memory.
#pragma once

#include <atomic>

#include "jax_arrays.hpp"

namespace {


const fastxent_level *level;
std::atomic<int> thread_limit{1};
double nanoseconds_of_row, nanoseconds_of_byte, nanoseconds_of_thread;

// The model of threads.plan; the limit may have changed since the call was compiled.
int threads_for(int64_t asked, int64_t rows, int64_t bytes) {
    const int limit = thread_limit.load(std::memory_order_relaxed);
    if (asked > 0) return static_cast<int>(asked);
    const double worth = static_cast<double>(rows) * nanoseconds_of_row +
                         static_cast<double>(bytes) * nanoseconds_of_byte;
    if (worth < 2 * nanoseconds_of_thread) return 1;
    const double threads = worth / nanoseconds_of_thread;
    return threads < limit ? static_cast<int>(threads) : limit;
}

int run(fastxent_pass &pass, scratch &memory) {
    pass.schedule = fastxent_schedule_of(pass);
    pass.scratch = memory.get(fastxent_scratch_bytes(pass));
    if (!pass.scratch) return fastxent_no_memory;
    level->forward(pass);
    return fastxent_done;
}

}  // namespace
