// The one parallel loop.
#pragma once

#include <cstdint>

#include "kernels.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// The loop over chunks of so many elements each, and who may end it early.
struct chunk_loop {
    int64_t chunks, elements;
    int threads;
    fastxent_watch *watch;
};

// Where a slice that begins with this chunk ends: something to do for every thread.
inline int64_t slice_end(const chunk_loop &loop, int64_t begin) {
    const int64_t most = loop.watch->left * loop.threads / loop.elements;
    const int64_t end = begin + (most < loop.threads ? loop.threads : most);
    return end < loop.chunks ? end : loop.chunks;
}

inline bool interrupted_after(const chunk_loop &loop, int64_t chunks) {
    loop.watch->left -= (chunks * loop.elements + loop.threads - 1) / loop.threads;
    return loop.watch->left <= 0 && fastxent_interrupted(*loop.watch);
}

// Chunks are handed out as threads come, so that a core that is busy elsewhere delays the call by one
// chunk only; which thread takes one changes no bit of the result. With one thread OpenMP is not
// entered, which makes forked children safe. Tells whether all chunks were done. Python is asked from
// the calling thread, when no team is at work.
template <class Body> bool for_chunks(const chunk_loop &loop, const Body &body) {
    int64_t begin = 0;
    do {
        const int64_t first = begin, end = loop.watch ? slice_end(loop, begin) : loop.chunks;
        begin = end;
#ifdef _OPENMP
        if (loop.threads > 1 && end - first > 1) {
#pragma omp parallel num_threads(loop.threads)
            {
                const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
                for (int64_t chunk = first; chunk < end; ++chunk) body(chunk, thread);
            }
        } else
#endif
        {
            for (int64_t chunk = first; chunk < end; ++chunk) body(chunk, 0);
        }
        if (loop.watch && interrupted_after(loop, end - first)) return false;
    } while (begin < loop.chunks);
    return true;
}

}  // namespace
