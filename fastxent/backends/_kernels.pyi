from fastxent.backends.contract import HessRule, PartialSums
from fastxent.precision import Array

BLOCK: int
LABEL_CHUNK: int
TILE_CLASSES: int
CHUNK_ELEMENTS: int
SLICE_ELEMENTS: int

def levels() -> tuple[tuple[str, ...], int]: ...
def level() -> str: ...
def lower_level(name: str) -> None: ...
def openmp_version() -> int: ...
def openmp_limit() -> int: ...
def in_openmp_region() -> bool: ...
def check_labels(
    target: Array,
    classes: int,
    skip: int | None,
    class_mass: Array | None,
    row_mass: Array | None,
    threads: int,
) -> tuple[int, int, float]: ...
def forward(
    logits: Array,
    kind: int,
    target: Array | None,
    skip: int | None,
    soft: Array | None,
    soft_kind: int,
    spike: float | Array,
    background: float | Array | None,
    background_total: float,
    gain: float | Array | None,
    row_scale: float | Array,
    logit_scale: float,
    softcap: float,
    z_loss: float,
    loss: Array | None,
    total: Array | None,
    grad: Array | None,
    row_max: Array | None,
    row_sum: Array | None,
    proba: Array | None,
    hess: Array | None,
    hess_rule: HessRule,
    log_prob: Array | None,
    argmax: Array | None,
    entropy: Array | None,
    target_grad: Array | None,
    target_grad_kind: int,
    threads: int,
) -> None: ...
def softmax(
    logits: Array,
    kind: int,
    proba: Array | None,
    log_proba: Array | None,
    row_max: Array | None,
    row_sum: Array | None,
    threads: int,
) -> None: ...
def partial(
    logits: Array,
    kind: int,
    target: Array | None,
    skip: int | None,
    soft: Array | None,
    soft_kind: int,
    background: float | Array | None,
    gain: float | Array | None,
    logit_scale: float,
    softcap: float,
    first_class: int,
    num_classes: int,
    sums: PartialSums,
    threads: int,
) -> None: ...
def merge(
    rows: int,
    size: int,
    target: Array | None,
    skip: int | None,
    spike: float | Array,
    background_total: float,
    z_loss: float,
    num_classes: int,
    sums: PartialSums,
    loss: Array | None,
    total: Array | None,
    row_max: Array | None,
    row_sum: Array | None,
    log_prob: Array | None,
    argmax: Array | None,
    entropy: Array | None,
    mass: Array | None,
    threads: int,
) -> None: ...
def partial_backward(
    logits: Array,
    kind: int,
    target: Array | None,
    skip: int | None,
    soft: Array | None,
    soft_kind: int,
    spike: float | Array,
    background: float | Array | None,
    gain: float | Array | None,
    row_scale: float | Array,
    logit_scale: float,
    softcap: float,
    z_loss: float,
    first_class: int,
    num_classes: int,
    row_max: Array,
    row_sum: Array,
    row_mass: Array,
    grad: Array,
    threads: int,
) -> None: ...
def mean_loss(
    logits: Array, target: Array, skip: int | None, grad: Array | None, threads: int
) -> float | None: ...
def binary(
    logits: Array,
    logits_kind: int,
    target: Array,
    target_kind: int,
    ones: float | Array,
    factor: float | Array,
    upstream: float | Array,
    compute_kind: int,
    gain: float,
    background: float,
    loss: Array | None,
    grad: Array | None,
    proba: Array | None,
    hess: Array | None,
    hess_rule: HessRule,
    total: Array | None,
    threads: int,
) -> bool: ...
def softmax_backward(
    proba: Array | None,
    log_proba: Array | None,
    grad: Array,
    out: Array,
    kind: int,
    threads: int,
) -> None: ...
def jax_use(limit: int, of_row: float, of_byte: float, of_thread: float) -> None: ...
def jax_handlers() -> dict[str, object]: ...
