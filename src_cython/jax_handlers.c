/* XLA's side of a call from JAX: no Python and no GIL; any thread. */
#include "jax_calls.h"
#include "xla.h"

static int kind_of(int type) {
    switch (type) {
    case fastxent_xla_f32: return 0;
    case fastxent_xla_f64: return 1;
    case fastxent_xla_f16: return 2;
    case fastxent_xla_bf16: return 3;
    case fastxent_xla_pred:
    case fastxent_xla_u8: return 4;
    case fastxent_xla_s8: return 5;
    case fastxent_xla_u16: return 6;
    case fastxent_xla_s16: return 7;
    case fastxent_xla_u32: return 8;
    case fastxent_xla_s32: return 9;
    case fastxent_xla_u64: return 10;
    case fastxent_xla_s64: return 11;
    default: return -1;
    }
}

static void *error(const struct fastxent_xla_frame *frame, int code, const char *message) {
    struct fastxent_xla_error_create create = {sizeof create, NULL, message, code};
    return frame->api->create_error(&create);
}

/* XLA asks for the version before anything else, in a frame that holds nothing but the question. */
static int answers_metadata(const struct fastxent_xla_frame *frame) {
    struct fastxent_xla_extension *extension = frame->extension;
    for (; extension; extension = extension->next) {
        if (extension->type != fastxent_xla_extension_metadata) continue;
        struct fastxent_xla_metadata *metadata =
            ((struct fastxent_xla_metadata_extension *)extension)->metadata;
        metadata->version.major = FASTXENT_XLA_MAJOR;
        metadata->version.minor = FASTXENT_XLA_MINOR;
        metadata->traits = 0;
        return 1;
    }
    return 0;
}

static int64_t arrays_of(const struct fastxent_xla_list *list, int buffer, struct fastxent_array *to) {
    if (list->size > fastxent_most_arrays) return -1;
    for (int64_t i = 0; i < list->size; ++i) {
        if (list->types[i] != buffer) return -1;
        const struct fastxent_xla_buffer *from = list->items[i];
        to[i].data = from->data;
        to[i].kind = kind_of(from->type);
        to[i].rank = from->rank;
        to[i].dims = from->dims;
    }
    return list->size;
}

static const void *attribute(const struct fastxent_xla_frame *frame, int64_t at, int type,
                             int64_t *count) {
    if (at >= frame->attributes.size || frame->attributes.types[at] != fastxent_xla_attribute_array)
        return NULL;
    const struct fastxent_xla_array *array = frame->attributes.items[at];
    if (array->type != type) return NULL;
    *count = (int64_t)array->size;
    return array->data;
}

static void *handle(const struct fastxent_xla_frame *frame, fastxent_jax_body *body) {
    if (answers_metadata(frame)) return NULL;
    if (frame->struct_size < sizeof *frame || frame->api->struct_size < sizeof *frame->api)
        return NULL; /* another XLA than expected: the call at import finds no numbers, and gives up */
    if (frame->stage != fastxent_xla_stage_execute) return NULL;
    struct fastxent_call call;
    call.operand_count = arrays_of(&frame->arguments, fastxent_xla_argument_buffer, call.operands);
    call.result_count = arrays_of(&frame->results, fastxent_xla_result_buffer, call.results);
    call.integer_count = call.number_count = 0;
    /* "integers", "numbers": attributes are sorted by name */
    call.integers = attribute(frame, 0, fastxent_xla_s64, &call.integer_count);
    call.numbers = attribute(frame, 1, fastxent_xla_f64, &call.number_count);
    if (call.operand_count < 0 || call.result_count < 0 || !call.integers || !call.numbers)
        return error(frame, fastxent_xla_invalid_argument,
                     "fastxent: XLA passed operands or attributes of another form than expected");
    char message[512];
    switch (body(&call, message, sizeof message)) {
    case fastxent_done: return NULL;
    case fastxent_no_memory:
        return error(frame, fastxent_xla_resource_exhausted, "fastxent: no memory for a pass's scratch");
    default: return error(frame, fastxent_xla_invalid_argument, message);
    }
}

void *fastxent_jax_partial(void *frame) { return handle(frame, fastxent_jax_partial_body); }

void *fastxent_jax_partial_backward(void *frame) {
    return handle(frame, fastxent_jax_partial_backward_body);
}

void *fastxent_jax_cross_entropy(void *frame) { return handle(frame, fastxent_jax_cross_entropy_body); }

void *fastxent_jax_softmax(void *frame) { return handle(frame, fastxent_jax_softmax_body); }

void *fastxent_jax_denominator(void *frame) { return handle(frame, fastxent_jax_denominator_body); }

void *fastxent_jax_brain_rows(void *frame) { return handle(frame, fastxent_jax_brain_rows_body); }
