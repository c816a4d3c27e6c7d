/* Memory that cannot be had: loaded before the C library's own (LD_PRELOAD), it counts the arrays
 * that a process asks for, refuses the chosen one, and knows how many blocks are held.
 *
 * An array is what NumPy asks its data handler for (NEP 49: the one below), but for single numbers,
 * where NumPy makes an OverflowError of a MemoryError; or a block of 1,024 bytes or more that one of
 * the chosen libraries asks for itself, or the extension through Python's PyMem_Malloc. Blocks of
 * others do not count: NumPy 2.4 raises MemoryError without the GIL, and crashes, where a ufunc gets
 * no buffer to convert dtypes in, and an OpenMP runtime ends the process when it gets no memory for
 * a thread. reliability/starved.py drives it through ctypes. */
#include <execinfo.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { least = 1024, least_of_numpy = 32, most_ranges = 64, most_frames = 6 };
static uintptr_t range_begin[most_ranges], range_end[most_ranges];
static int ranges, first_deep_range;
static atomic_long asked, held, first, last;
/* volatile: a compiler may take it that malloc looks at no variable */
static _Thread_local volatile int of_numpy;

/* Code of a library that asks for arrays; `deep`, which come last: through others. */
void failing_range(uintptr_t begin, uintptr_t end, int deep) {
    if (ranges == most_ranges) return;
    range_begin[ranges] = begin;
    range_end[ranges++] = end;
    if (!deep) first_deep_range = ranges;
}

/* Refuse the arrays of these numbers, counted from 1 on, from now on. */
void failing_arm(long from, long to) {
    atomic_store(&asked, 0);
    atomic_store(&last, to);
    atomic_store(&first, from);
}

/* Refuse none any more; give how many were asked for. */
long failing_stop(void) {
    atomic_store(&first, 0);
    return atomic_load(&asked);
}

long failing_held(void) { return atomic_load(&held); }

static int lies_in(void *place, int from) {
    for (int i = from; i < ranges; ++i)
        if ((uintptr_t)place >= range_begin[i] && (uintptr_t)place < range_end[i]) return 1;
    return 0;
}

static int fails(size_t size, void *caller) {
    const long from = atomic_load(&first);
    if (!from || size < (of_numpy ? least_of_numpy : least)) return 0;
    int counts = of_numpy || lies_in(caller, 0);
    if (!counts) {
        void *frames[most_frames];
        const int depth = backtrace(frames, most_frames);
        for (int i = 0; i < depth; ++i) counts |= lies_in(frames[i], first_deep_range);
    }
    if (!counts) return 0;
    const long number = atomic_fetch_add(&asked, 1) + 1;
    if (number < from || number > atomic_load(&last)) return 0;
    errno = ENOMEM;
    return 1;
}

static void count(void *block, long change) {
    if (block && malloc_usable_size(block) >= least) atomic_fetch_add(&held, change);
}

static void *counted(void *block) {
    count(block, 1);
    return block;
}

void *malloc(size_t size) {
    if (fails(size, __builtin_return_address(0))) return NULL;
    return counted(__libc_malloc(size));
}

void *calloc(size_t number, size_t size) {
    size_t bytes;
    if (!__builtin_mul_overflow(number, size, &bytes) && fails(bytes, __builtin_return_address(0)))
        return NULL;
    return counted(__libc_calloc(number, size));
}

void *realloc(void *block, size_t size) {
    if (fails(size, __builtin_return_address(0))) return NULL;
    const int counts = block && malloc_usable_size(block) >= least;
    void *moved = __libc_realloc(block, size);
    if (counts && (moved || !size)) atomic_fetch_add(&held, -1);
    return moved ? counted(moved) : NULL;
}

void *memalign(size_t alignment, size_t size) {
    if (fails(size, __builtin_return_address(0))) return NULL;
    return counted(__libc_memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size) {
    if (fails(size, __builtin_return_address(0))) return NULL;
    return counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **place, size_t alignment, size_t size) {
    if (fails(size, __builtin_return_address(0))) return ENOMEM;
    void *block = counted(__libc_memalign(alignment, size));
    if (!block) return ENOMEM;
    *place = block;
    return 0;
}

void free(void *block) {
    const int kept = errno;
    count(block, -1);
    __libc_free(block);
    errno = kept;
}

/* The functions of NumPy's handler, whose blocks are arrays. */
static void *for_numpy(void *block) {
    of_numpy = 0;
    return block;
}

void *failing_numpy_malloc(void *context, size_t size) {
    (void)context;
    of_numpy = 1;
    return for_numpy(malloc(size));
}

void *failing_numpy_calloc(void *context, size_t number, size_t size) {
    (void)context;
    of_numpy = 1;
    return for_numpy(calloc(number, size));
}

void *failing_numpy_realloc(void *context, void *block, size_t size) {
    (void)context;
    of_numpy = 1;
    return for_numpy(realloc(block, size));
}

void failing_numpy_free(void *context, void *block, size_t size) {
    (void)context, (void)size;
    free(block);
}
